"""The slash commands: one table that controller, completion, help and documentation read."""

from typing import TYPE_CHECKING

from cli.talk.commands import answers, compact, conversations, copying, general, rewind, search
from cli.talk.commands.command import Command
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.talk.chat import Chat


def _help(chat: "Chat", argument: str) -> None:
    chat.print_lines(help_lines(argument.lstrip("/")))


_HELP = Command("help", "[COMMAND]", "this list, or one command", _help)
GROUPS: dict[str, tuple[Command, ...]] = {
    "General": (_HELP, *general.COMMANDS),
    "Answers": answers.COMMANDS,
    "Rewind": (*rewind.COMMANDS, *compact.COMMANDS),
    "Conversations": (*conversations.COMMANDS, *search.COMMANDS, *copying.COMMANDS),
}
COMMANDS = {command.name: command for group in GROUPS.values() for command in group}


def named(name: str) -> Command:
    """The command called `name`; UsageError, with the nearest one, where there is none."""
    if name in COMMANDS:
        return COMMANDS[name]
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, 1)
    if near:
        raise UsageError(f"there is no command /{name}; did you mean /{near[0]}?")
    raise UsageError(f"there is no command /{name}; /help lists them.")


def help_lines(name: str = "") -> list[str]:
    """Every command with its summary, by group, or only the one called `name`."""
    if name:
        command = named(name)
        return [f"{command.usage}  {command.summary}"]
    width = max(len(command.usage) for command in COMMANDS.values()) + 2
    lines: list[str] = []
    for group, commands in GROUPS.items():
        lines += [group, *(f"  {c.usage:<{width}}{c.summary}" for c in commands)]
    return [*lines, "", *_INPUT]


_INPUT = (
    "@path attaches a file, !command the output of a command. A message that begins",
    'with a slash or ! needs a space before it; lines between """ are one message.',
)
