"""Commands that set how answers come."""

from typing import TYPE_CHECKING

from cli.commands.command import Command, number, whole
from cli.options import REASONING
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.chat import Chat


def _think(chat: "Chat", argument: str) -> None:
    if argument:
        chat.set_level(argument)
    if argument == "max":
        chat.note(chat.models.max_level_note(chat.model))
    levels = ", ".join(chat.model.settings.levels)
    chat.note(f"thinking level {chat.thinking.level}; levels: {levels}")


def _budget(chat: "Chat", argument: str) -> None:
    if argument:
        chat.set("budget", None if argument == "off" else whole(argument, "budget"))
    budget = chat.preferences.budget
    chat.note(
        "no limit on reasoning" if budget is None else f"reasoning ends near {budget:,} tokens"
    )


def _reasoning(chat: "Chat", argument: str) -> None:
    if argument and argument not in REASONING:
        raise UsageError(f"/reasoning takes {', '.join(REASONING)}, got {argument!r}.")
    chat.view.reasoning = argument or chat.view.reasoning
    chat.note(f"reasoning: {chat.view.reasoning}")


def _system(chat: "Chat", argument: str) -> None:
    if argument:
        chat.set("system", None if argument == "off" else argument)
    system = chat.preferences.system
    chat.note("no system message" if system is None else f"system message: {system}")


def _temperature(chat: "Chat", argument: str) -> None:
    if argument:
        chat.set("temperature", number(argument, "temp", least=0, most=100))
    value = chat.sampling.temperature
    chat.note(f"temperature {value:g}" + (": always the likeliest token" if value == 0 else ""))


def _top_p(chat: "Chat", argument: str) -> None:
    if argument:
        value = number(argument, "top_p", least=0, most=1)
        if value == 0:
            raise UsageError("/top_p takes a number above 0 and at most 1, got 0.")
        chat.set("top_p", value)
    chat.note(f"top-p {chat.sampling.top_p:g}")


def _seed(chat: "Chat", argument: str) -> None:
    if argument:
        chat.set("seed", None if argument == "off" else whole(argument, "seed", least=0))
    seed = chat.sampling.seed
    chat.note("a new seed for every answer" if seed is None else f"seed {seed}")


def _max(chat: "Chat", argument: str) -> None:
    if argument:
        chat.set("max_tokens", None if argument == "off" else whole(argument, "max"))
    limit = chat.preferences.max_tokens
    chat.note("no limit but the context" if limit is None else f"at most {limit:,} tokens")


def _tools(chat: "Chat", argument: str) -> None:
    if argument not in ("", "on", "off"):
        raise UsageError(f"/tools takes on, off or nothing, got {argument!r}.")
    if argument:
        chat.use_tools(argument == "on")
    names = chat.tool_names
    chat.note(f"tools: {', '.join(names)}" if names else "no tools; /tools on enables them")


COMMANDS = (
    Command(
        "think",
        "[LEVEL]",
        "show or set the thinking level (Shift-Tab cycles)",
        _think,
        lambda chat: chat.model.settings.levels,
    ),
    Command("budget", "[N|off]", "limit the tokens of reasoning", _budget),
    Command(
        "reasoning",
        "[show|fold|hide]",
        "how reasoning is shown (Ctrl-O unfolds the last)",
        _reasoning,
        lambda chat: REASONING,
    ),
    Command("system", "[TEXT|off]", "show or set the system message", _system),
    Command("temp", "[T]", "sampling temperature; 0 is greedy", _temperature),
    Command("top_p", "[P]", "sample from the likeliest tokens that reach P", _top_p),
    Command("seed", "[N|off]", "make sampling repeatable", _seed),
    Command("max", "[N|off]", "longest answer in tokens, reasoning included", _max),
    Command("tools", "[on|off]", "let the model use tools", _tools, lambda chat: ("on", "off")),
)
