"""Running a command: asks each time with the exact line, runs it without input and for a time."""

from collections.abc import Callable, Mapping
from typing import Any

from cli.tools.approval import Action, Approvals, quoted_lines
from cli.tools.background import Background
from cli.tools.shell import run
from cli.tools.tool import Tool, characters, middle_cut, parameters
from cli.tools.workspace import Workspace

TIMEOUT_S = 60
LONGEST_TIMEOUT_S = 600
_LONGEST_COMMAND = 8_000


def command_tool(
    workspace: Workspace,
    approvals: Approvals,
    stopped: Callable[[], bool],
    background: Background,
) -> Tool:
    """`run_command`."""

    def run_command(arguments: Mapping[str, Any]) -> str:
        command = arguments["command"]
        approvals.require(_action(command, workspace))
        timeout_s = float(arguments.get("timeout_s", TIMEOUT_S))
        ran = run(command, workspace.folder, timeout_s, stopped=stopped, background=background)
        text = middle_cut(characters(ran.text))
        newline = "" if not text or text.endswith("\n") else "\n"
        left = "".join(f"\n[{characters(sentence)}]" for sentence in ran.left)
        return f"{text}{newline}[exit status {ran.status}]{left}"

    return Tool(
        "run_command",
        "Run a shell command in the working folder, without input. The user is asked first.",
        parameters(
            ("command",),
            command={"type": "string", "minLength": 1, "maxLength": _LONGEST_COMMAND},
            timeout_s={
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": LONGEST_TIMEOUT_S,
                "description": f"Default {TIMEOUT_S}.",
            },
        ),
        run_command,
    )


def _action(command: str, workspace: Workspace) -> Action:
    return Action(
        "run this command?",
        (*quoted_lines(command, "$ "), f"in {workspace.folder}"),
        "run exactly this command",
        ("run_command", command),
    )
