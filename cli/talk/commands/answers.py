"""Commands that set how answers come."""

from typing import TYPE_CHECKING

from cli.options import REASONING
from cli.talk.commands.command import Command, number, whole
from dsv4_mlx.chat.loops import LOOPS
from dsv4_mlx.chat.stops import escaped, unescaped
from dsv4_mlx.engine.draft_choice import DRAFT_CHOICES, most_drafts
from dsv4_mlx.engine.draft_history import MOST_DRAFTS
from dsv4_mlx.engine.sampling import RANGES
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.talk.chat import Chat


def _think(chat: "Chat", argument: str) -> None:
    if argument:
        chat.model.settings.thinking(argument)  # UsageError where it cannot be given
        chat.set("think", argument)
    if argument == "max":
        chat.note(chat.models.max_level_note(chat.model))
    levels = ", ".join(chat.model.settings.levels)
    chat.note(f"thinking level {chat.settings.thinking.level}; levels: {levels}")
    if chat.preferences.budget == 0 and chat.settings.thinking.level != "none":
        chat.note("the reasoning budget is 0, so there is none; /budget off lifts it")


def _budget(chat: "Chat", argument: str) -> None:
    if argument:
        chat.set("budget", None if argument == "off" else whole(argument, "budget", least=0))
    chat.note(_budget_words(chat.preferences.budget))


def _budget_words(budget: int | None) -> str:
    if budget == 0:
        return "no reasoning: its budget is 0"
    return "no limit on reasoning" if budget is None else f"reasoning ends near {budget:,} tokens"


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


def _sampled(command: str, summary: str, letter: str, words: str, name: str = "") -> Command:
    """The command of one number of sampling; `auto` takes the checkpoint's again."""
    name = name or command

    def action(chat: "Chat", argument: str) -> None:
        if argument:
            value = None if argument == "auto" else number(argument, command, RANGES[name])
            chat.set(name, value)
        found = getattr(chat.settings.sampling, name)
        meaning = _MEANINGS.get((name, found), "")
        chat.note(f"{words} {found:g}" + (f": {meaning}" if meaning else ""))

    return Command(command, f"[{letter}|auto]", summary, action, lambda chat: ("auto",))


_MEANINGS = {
    ("temperature", 0): "always the likeliest token",
    ("top_k", 0): "no limit",
    ("min_p", 0): "no limit",
    ("repetition_penalty", 1): "none",
}


def _seed(chat: "Chat", argument: str) -> None:
    if argument:
        chat.set("seed", None if argument == "off" else whole(argument, "seed", least=0))
    seed = chat.settings.sampling.seed
    chat.note("a new seed for every answer" if seed is None else f"seed {seed}")


def _max(chat: "Chat", argument: str) -> None:
    if argument:
        chat.set("max_tokens", None if argument == "off" else whole(argument, "max"))
    limit = chat.preferences.max_tokens
    chat.note("no limit but the context" if limit is None else f"at most {limit:,} tokens")


def _stop(chat: "Chat", argument: str) -> None:
    texts = chat.preferences.stop
    if argument == "off":
        chat.set("stop", ())
    elif argument:
        # Quotes keep spaces at the ends, and the word off.
        is_quoted = len(argument) > 1 and argument[0] == argument[-1] == '"'
        text = unescaped(argument[1:-1] if is_quoted else argument)
        if not text:
            raise UsageError("/stop takes a text of at least one character, or off.")
        chat.set("stop", texts if text in texts else (*texts, text))
    shown = ", ".join(f'"{escaped(text)}"' for text in chat.preferences.stop)
    chat.note(f"answers end before {shown}" if shown else "no stop texts")


def _loop(chat: "Chat", argument: str) -> None:
    if argument and argument not in LOOPS:
        raise UsageError(f"/loop takes {', '.join(LOOPS)} or nothing, got {argument!r}.")
    if argument:
        chat.set("loop", argument)
    meanings = {
        "notice": "a note says so",
        "stop": "it is ended",
        "off": "nothing happens",
    }
    chat.note(f"when a reply says the same without end, {meanings[chat.preferences.loop]}")


def _draft(chat: "Chat", argument: str) -> None:
    if argument.isdigit():
        most_drafts("auto", int(argument))
        chat.set("draft_max", int(argument))
    elif argument:
        if argument not in DRAFT_CHOICES:
            raise UsageError(
                f"/draft takes {', '.join(DRAFT_CHOICES)}, a number from 1 to {MOST_DRAFTS} or "
                f"nothing, got {argument!r}."
            )
        chat.set("draft", argument)
    kind, most = chat.preferences.draft, chat.preferences.draft_max
    if kind == "off":
        chat.note("no tokens are guessed ahead")
        return
    said = f"drafts: {kind}, at most {most_drafts(kind, most)} at a time"
    if why := chat.model.why_no_drafts(kind):
        chat.note(f"drafts: {kind}, off: {why}")
        return
    use = None if chat.done is None else chat.done.draft
    if use is not None and use.passes:
        said += (
            f"; the last reply: {use.accepted:,} of {use.drafted:,} right, "
            f"{use.tokens_per_pass or 1:.2f} tokens a pass, {use.saved_s:+.1f} s saved"
        )
    chat.note(said)


def _tools(chat: "Chat", argument: str) -> None:
    if argument not in ("", "on", "off"):
        raise UsageError(f"/tools takes on, off or nothing, got {argument!r}.")
    if argument:
        chat.use_tools(argument == "on")
    names = [one["function"]["name"] for one in chat.tool_definitions()]
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
    _sampled("temp", "sampling temperature; 0 is greedy", "T", "temperature", "temperature"),
    _sampled("top_p", "sample from the likeliest tokens that reach P", "P", "top-p"),
    _sampled("min_p", "drop tokens below P times the likeliest", "P", "min-p"),
    _sampled("top_k", "sample from the K likeliest tokens; 0 is all", "K", "top-k"),
    _sampled(
        "penalty",
        "above 1 avoids what was said already",
        "R",
        "repetition penalty",
        "repetition_penalty",
    ),
    Command("seed", "[N|off]", "make sampling repeatable", _seed),
    Command("max", "[N|off]", "longest answer in tokens, reasoning included", _max),
    Command(
        "stop",
        "[TEXT|off]",
        "end answers before TEXT (\\n is a line end)",
        _stop,
        lambda chat: ("off",),
    ),
    Command(
        "loop",
        "[notice|stop|off]",
        "what happens when a reply repeats without end",
        _loop,
        lambda chat: LOOPS,
    ),
    Command(
        "draft",
        "[KIND|N]",
        "guess tokens ahead, N at a time; same replies",
        _draft,
        lambda chat: DRAFT_CHOICES,
    ),
    Command("tools", "[on|off]", "let the model use tools", _tools, lambda chat: ("on", "off")),
)
