"""Tools of MCP servers, through the official package `mcp`, an extra of this program.

The servers named in the configuration file are started and asked for their tools; a call asks the
person first, unless the file trusts the server.
"""

import asyncio
import importlib.util
import json
import logging
import re
import shutil
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from cli.config_servers import Server
from cli.tools.approval import Action, Approvals
from cli.tools.tool import Tool, ToolError, bounded, characters
from dsv4_mlx.files.documents import DocumentError, parse_object

if TYPE_CHECKING:
    import mcp_types

    from cli.tools.mcp_connection import Connection

Result = TypeVar("Result")

MISSING = 'MCP servers need the package mcp: pip install "dsv4-mlx[mcp]".'
LONGEST_NAME = 64
_LONGEST_DESCRIPTION = 2_000
_LARGEST_SCHEMA = 20_000
_CLOSE_S = 8.0
_SLICE_S = 0.1  # between looks at `stopped`


class Servers:
    """The tools of some servers; their event loop runs on a thread of its own."""

    def __init__(
        self,
        servers: Sequence[Server],
        approvals: Approvals,
        folder: Path,
        stopped: Callable[[], bool],
    ) -> None:
        self.tools: list[Tool] = []
        self.problems: list[str] = []
        """One sentence for each server whose tools are not there."""
        self._approvals = approvals
        self._stopped = stopped
        self._connections: list[Connection] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        if not servers:
            return
        if importlib.util.find_spec("mcp") is None:
            self.problems.append(MISSING)
            return
        # Its complaints about servers are ours to tell, and not lines on the screen.
        logging.getLogger("mcp").addHandler(logging.NullHandler())
        logging.getLogger("mcp").propagate = False
        self._start()
        self._open([server for server in servers if self._is_there(server, folder)], folder)

    def close(self) -> None:
        """End the servers and the thread."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None

        async def end() -> None:
            await asyncio.gather(*(one.close(_CLOSE_S) for one in self._connections))

        with suppress(TimeoutError):  # a server that nothing ends; the thread ends with us
            asyncio.run_coroutine_threadsafe(end(), loop).result(timeout=2 * _CLOSE_S)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(timeout=_CLOSE_S)

    def _start(self) -> None:
        self._loop = loop = asyncio.new_event_loop()
        self._thread = Thread(target=loop.run_forever, name="mcp", daemon=True)
        self._thread.start()

    def _is_there(self, server: Server, folder: Path) -> bool:
        path = dict(server.variables).get("PATH")
        command = server.command
        place = str(folder / command) if "/" in command else command
        if shutil.which(place, path=path):
            return True
        self.problems.append(f"The MCP server {server.name}: there is no program {command}.")
        return False

    def _open(self, servers: Sequence[Server], folder: Path) -> None:
        """Start all servers at once and take over their tools."""
        from cli.tools.mcp_connection import Connection

        async def connections() -> list[Connection]:
            return [Connection(server, folder) for server in servers]

        self._connections = self._wait(connections())
        waiting = [self._submit(connection.tools()) for connection in self._connections]
        for server, connection, future in zip(servers, self._connections, waiting, strict=True):
            try:
                found = self._result(future)
            except ToolError as error:
                self.problems.append(str(error))
                continue
            for tool in found:
                self._add(server, connection, tool)

    def _add(self, server: Server, connection: "Connection", tool: "mcp_types.Tool") -> None:
        name = tool_name(server.name, tool.name)
        if any(other.name == name for other in self.tools):
            self.problems.append(
                f"The MCP server {server.name} has two tools that would be called {name}; the "
                "first is used."
            )
            return
        self.tools.append(
            Tool(
                name,
                characters(tool.description or tool.name)[:_LONGEST_DESCRIPTION],
                _schema(tool.input_schema),
                partial(self._call, server, connection, tool.name),
            )
        )

    def _call(
        self, server: Server, connection: "Connection", tool: str, arguments: Mapping[str, Any]
    ) -> str:
        if not server.trust:
            self._approvals.require(_action(server, tool, arguments))
        return _text(self._wait(connection.call(tool, arguments)))

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._result(self._submit(work))

    def _submit(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        if self._loop is None:
            work.close()
            raise ToolError("The MCP servers are closed.")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _result(self, future: "Future[Result]") -> Result:
        """What `future` gives, unless the person stops it first."""
        while True:
            try:
                return future.result(timeout=_SLICE_S)
            except TimeoutError:
                if self._stopped():
                    future.cancel()
                    raise ToolError("The user stopped this.") from None


def tool_name(server: str, tool: str) -> str:
    """The name that the model uses: letters, digits, - and _, at most LONGEST_NAME of them."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{server}__{tool}")[:LONGEST_NAME]


def _schema(found: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as plain JSON; one that would fill the prompt is left to the server to check."""
    text = characters(json.dumps(found, ensure_ascii=False))
    try:
        schema = parse_object(text) if len(text) <= _LARGEST_SCHEMA else {}
    except DocumentError:  # too deep, or with numbers that no prompt could hold
        schema = {}
    return schema if schema.get("type") == "object" else {"type": "object"}


def _action(server: Server, tool: str, arguments: Mapping[str, Any]) -> Action:
    return Action(
        f"call a tool of the MCP server {server.name}?",
        (tool, *json.dumps(arguments, ensure_ascii=False, indent=2).split("\n")),
        f"call {tool} of {server.name}, with any arguments",
        ("mcp", server.name, tool),
    )


def _text(result: "mcp_types.CallToolResult") -> str:
    """The text of a result; what is no text is named and left out."""
    parts = [_part(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = bounded("\n".join(parts) or "The tool answered with nothing.")
    return f"Error: {text}" if result.is_error else text


def _part(block: "mcp_types.ContentBlock") -> str:
    if block.type == "text":
        return str(block.text)
    if block.type == "resource_link":
        return f"[link to {block.uri}]"
    if block.type == "resource":
        text = getattr(block.resource, "text", None)
        return text if isinstance(text, str) else f"[data of {block.resource.uri}, left out]"
    return f"[{block.type}, left out]"
