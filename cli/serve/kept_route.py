"""`/v1/responses/ID`: a response that was kept, to be looked at or forgotten."""

import asyncio

from cli.serve.faults import Fault
from cli.serve.http_answers import Receive, Scope, Send, send_fault, send_json
from cli.serve.responses import ResponsesDialect
from dsv4_mlx.files.documents import shown


class KeptRoute:
    """GET and DELETE of one response, by whoever asked for it."""

    def __init__(self, dialect: ResponsesDialect) -> None:
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        responses = self._dialect.kept
        owner, name = scope.get("owner", ""), scope["path_params"]["name"]
        if scope["method"] == "DELETE":
            if await asyncio.to_thread(responses.delete, owner, name):
                gone = {"id": name, "object": "response", "deleted": True}
                await send_json(send, 200, gone)
                return
        elif (kept := await asyncio.to_thread(responses.get, owner, name)) is not None:
            await send_json(send, 200, kept.response)
            return
        fault = Fault("not_found", f"There is no response {shown(name)} here.")
        await send_fault(send, fault, self._dialect.error(fault))
