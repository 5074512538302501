"""One MCP server: started when it is first needed, and again after it ended.

Everything here runs on one event loop. The session of the official package lives in a task of its
own, since it has to be opened and closed by the same task.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import mcp_types
from mcp import ClientSession, MCPError, StdioServerParameters, stdio_client

from cli.config_servers import Server
from cli.tools.tool import ToolError

MOST_TOOLS = 128
START_TIMEOUT_S = 30.0
"""A server may have this long to start, or its `timeout_s` if that is longer."""
_RELAY = str(Path(__file__).with_name("mcp_relay.py"))


class Connection:
    """The tools of one server. Whatever the server does ends in a result or a ToolError."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._session: ClientSession | None = None
        self._closing = asyncio.Event()
        self._holders: set[asyncio.Task[None]] = set()

    async def tools(self) -> list[mcp_types.Tool]:
        """What the server offers, at most MOST_TOOLS."""
        found: list[mcp_types.Tool] = []
        cursor: str | None = None
        async with _Sentences(self, max(self._server.timeout_s, START_TIMEOUT_S)):
            session = await self._opened()
            while len(found) < MOST_TOOLS:
                page = await session.list_tools(
                    params=mcp_types.PaginatedRequestParams(cursor=cursor) if cursor else None
                )
                found += page.tools
                cursor = page.next_cursor
                if cursor is None or not page.tools:
                    break
        return found[:MOST_TOOLS]

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> mcp_types.CallToolResult:
        """The result of one call."""
        async with _Sentences(self, self._server.timeout_s):
            session = await self._opened()
            parameters = mcp_types.CallToolRequestParams(name=tool, arguments=dict(arguments))
            # Not session.call_tool: it would match the result with patterns that the server
            # chose, and an expression can be written that takes for ever.
            return await session.send_request(
                mcp_types.CallToolRequest(params=parameters), mcp_types.CallToolResult
            )

    def drop(self) -> None:
        """Let the present session end; the next use starts the server anew."""
        self._session = None
        self._closing.set()

    async def close(self, timeout_s: float) -> None:
        """End the server."""
        self.drop()
        if self._holders:
            await asyncio.wait(self._holders, timeout=timeout_s)

    @property
    def name(self) -> str:
        return self._server.name

    async def _opened(self) -> ClientSession:
        if self._session is None:
            self._closing = asyncio.Event()
            ready: asyncio.Future[ClientSession] = asyncio.get_running_loop().create_future()
            holder = asyncio.create_task(self._hold(ready, self._closing))
            self._holders.add(holder)
            holder.add_done_callback(self._holders.discard)
            self._session = await ready
        return self._session

    async def _hold(self, ready: "asyncio.Future[ClientSession]", closing: asyncio.Event) -> None:
        """Keep one session open until `closing` is set."""
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-I", "-S", _RELAY, self._server.command, *self._server.arguments],
            env=dict(self._server.variables),
            cwd=self._folder,
            encoding_error_handler="replace",
        )
        try:
            with open(os.devnull, "w", encoding="utf-8") as nowhere:
                async with (
                    stdio_client(parameters, errlog=nowhere) as (read, write),
                    ClientSession(read, write) as session,
                ):
                    if await _finished(session.initialize(), closing) and not ready.done():
                        ready.set_result(session)
                    await closing.wait()
        except Exception as error:  # a server can make the package raise anything
            if not ready.done():
                ready.set_exception(error)


async def _finished(work: Coroutine[Any, Any, object], closing: asyncio.Event) -> bool:
    """Do `work` until `closing` is set; whether it came to its end."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(closing.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not working.done():
        working.cancel()
        return False
    working.result()
    return True


class _Sentences:
    """Turns what goes wrong in a block, its time included, into a sentence for the model."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._timeout = asyncio.timeout(timeout_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        name = f"The MCP server {self._connection.name}"
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            self._connection.drop()
            raise ToolError(f"{name} did not answer within {self._timeout_s:g} s.") from late
        if error is None:
            return
        if not isinstance(error, Exception):
            self._connection.drop()  # cancelled: its answer may still come and belong to nobody
            return
        cause = _leaf(error)
        if not isinstance(cause, MCPError) or cause.code == mcp_types.CONNECTION_CLOSED:
            self._connection.drop()
        raise ToolError(f"{name} {_what(cause)}.") from error


def _leaf(error: BaseException) -> BaseException:
    """The first error in a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _what(error: BaseException) -> str:
    if isinstance(error, MCPError) and error.code != mcp_types.CONNECTION_CLOSED:
        return f"refused: {' '.join(error.message.split())[:500]}"
    if isinstance(error, ValueError):
        return "sent something that is no answer"
    return "ended without an answer; the next call starts it again"
