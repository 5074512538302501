"""The tools of one conversation: their definitions for the model, and running what it calls."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.config_servers import Server
from cli.show.surface import Question
from cli.tools.approval import Approvals
from cli.tools.background import Background
from cli.tools.calculator import LONGEST, evaluate
from cli.tools.commands import command_tool
from cli.tools.files import reading_tools
from cli.tools.mcp import Servers
from cli.tools.schema import read_arguments
from cli.tools.search import searching_tool
from cli.tools.tool import Tool, ToolError, characters, parameters
from cli.tools.workspace import Workspace
from cli.tools.writing import writing_tool
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.errors import Dsv4Error


class Toolbox:
    """Built-in tools on `folder` and the tools of MCP servers.

    `ask` decides about what a person has to allow; `stopped` says, while a tool runs, that the
    person wants it to end. Raises UsageError when the folder cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        ask: Callable[[Question], str],
        servers: Sequence[Server] = (),
        *,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._workspace = Workspace(folder)
        approvals = self._approvals = Approvals(ask)
        self._background = Background()
        tools = [
            *reading_tools(self._workspace, approvals),
            searching_tool(self._workspace, approvals, stopped),
            _calculator(),
            writing_tool(self._workspace, approvals),
            command_tool(self._workspace, approvals, stopped, self._background),
        ]
        self._servers = Servers(servers, approvals, self._workspace.folder, stopped)
        self._tools: dict[str, Tool] = {tool.name: tool for tool in (*tools, *self._servers.tools)}

    def definitions(self) -> list[dict[str, Any]]:
        """What the model is told, as OpenAI-style dictionaries."""
        return [tool.definition() for tool in self._tools.values()]

    def run(self, call: ToolCall) -> str:
        """The result of `call` for the model; what fails or is refused says so in it."""
        try:
            tool = self._tools.get(call.name)
            if tool is None:
                names = ", ".join(self._tools)
                raise ToolError(f"There is no tool {call.name!r}; the tools are {names}.")
            return characters(tool.run(read_arguments(call.arguments, tool.parameters)))
        except (ToolError, Dsv4Error) as error:
            return characters(f"Error: {error}")
        except OSError as error:
            return characters(f"Error: {error.filename or 'input or output'}: {error.strerror}.")

    def problems(self) -> list[str]:
        """One sentence for each MCP server whose tools are not there."""
        return [characters(problem) for problem in self._servers.problems]

    def forget(self) -> list[str]:
        """Drop what was always allowed, for MCP tools too, and end what commands left running:
        another conversation begins. Sentences about what was ended."""
        self._approvals.forget()
        return self._background.end()

    def close(self) -> None:
        """End what runs for the tools."""
        self._background.end()
        self._servers.close()
        self._workspace.close()


def _calculator() -> Tool:
    def calculate(arguments: Mapping[str, Any]) -> str:
        return evaluate(arguments["expression"])

    return Tool(
        "calculator",
        "Calculate one expression exactly: + - * / // % **, and functions such as sqrt and comb.",
        parameters(
            ("expression",),
            expression={"type": "string", "maxLength": LONGEST, "description": "As in Python."},
        ),
        calculate,
    )
