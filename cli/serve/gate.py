"""What every request passes first: who asks and how often, whatever it asks for."""

import asyncio
from collections.abc import Callable
from typing import Any

from cli.serve.access import Access, check_type
from cli.serve.dialects import Dialects
from cli.serve.faults import Fault, RequestFault
from cli.serve.http_answers import Receive, Scope, Send, send_content, send_fault, with_headers
from cli.serve.limits import HttpLimits, RateLimit


class Gate:
    """Lets requests through to `app` with their owner in the scope, and refuses the others in the
    words of the dialect that they speak."""

    def __init__(
        self,
        app: Any,
        access: Access,
        limits: HttpLimits,
        dialects: Dialects,
        requests: RateLimit,
        wrong_keys: RateLimit,
        on_refused: Callable[[Scope, Fault], None],
        clock: Callable[[], float],
    ) -> None:
        """`on_refused` is told of every request that does not come to `app`; by `clock` a client
        reads the rest of its answer or does not."""
        self._app, self._access, self._limits, self._dialects = app, access, limits, dialects
        self._requests, self._wrong_keys = requests, wrong_keys
        self._on_refused, self._clock = on_refused, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the life of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        cors = list(self._access.cors(scope))
        try:
            self._check_crowd(scope)
            scope["owner"] = self._admitted(scope)
        except RequestFault as error:
            self._on_refused(scope, error.fault)
            refused = self._dialects.at(scope).error(error.fault)
            await send_fault(with_headers(send, cors), error.fault, refused)
            return
        if scope["method"] == "OPTIONS" and cors:
            await send_content(send, 204, b"text/plain", b"", cors)
            return

        send_with_cors = with_headers(send, cors)

        abort = scope.get("abort", lambda: None)

        async def sending(message: Any) -> None:
            # Whoever reads nothing any more is taken for gone; what is unsent would keep the
            # connection for ever.
            try:
                async with asyncio.timeout(self._limits.write_s):
                    await send_with_cors(message)
            except TimeoutError:
                abort()
                raise

        await self._app(scope, receive, sending)
        if not await self._is_read(scope.get("unsent", lambda: 0)):
            abort()

    async def _is_read(self, unsent: Callable[[], int]) -> bool:
        """Wait until the client has read the rest of its answer; whether it reads at all."""
        left, since = unsent(), self._clock()
        while left:
            if self._clock() - since >= self._limits.write_s:
                return False
            await asyncio.sleep(self._limits.look_s)
            if (still := unsent()) < left:
                left, since = still, self._clock()
        return True

    def _check_crowd(self, scope: Scope) -> None:
        """RequestFault where more connections are open than are served."""
        if scope.get("is_crowding"):
            most = self._limits.connections
            raise RequestFault(
                "crowded", f"More than {most} connections are open; close some, or try again later."
            )

    def _admitted(self, scope: Scope) -> str:
        client = (scope.get("client") or ("", 0))[0]
        try:
            owner = self._access.check(scope)
        except RequestFault as error:
            # A right key is served whatever came before: all behind a proxy have one address.
            if error.fault.kind == "unauthorized" and not self._wrong_keys.allows(client):
                raise RequestFault(
                    "too_often", "Too many wrong keys came from there; wait a minute."
                ) from error
            raise
        if scope["method"] != "OPTIONS":
            check_type(scope)
        if not self._requests.allows(owner or client):
            most = self._limits.requests_per_minute
            raise RequestFault("too_often", f"More than {most} requests came in a minute; wait.")
        return owner
