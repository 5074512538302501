"""What a view says beside the answer: how long it thought, why it ended, which tool it calls."""

import json
import math

from cli.safe import exact
from dsv4_mlx.chat.events import BudgetReached, Done, LoopNoticed
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.stops import escaped
from dsv4_mlx.files.documents import DocumentError, parse_json

_MOST_LINES = 12
_MOST_CHARACTERS = 400


def thought_for(seconds: float, tokens: int | None) -> str:
    """What stands for folded reasoning; no `tokens` are those that nobody counts."""
    size = "" if not tokens else f" · {tokens:,} token{'' if tokens == 1 else 's'}"
    return f"thought for {duration(seconds)}{size}"


def duration(seconds: float) -> str:
    """`12.3 s`, `4 min 5 s`, `2 h 3 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def ending(done: Done) -> str:
    """What is said about an answer that did not end by itself, else nothing."""
    if done.finish_reason == "length":
        return f"[stopped after {done.usage.completion_tokens:,} tokens, the limit]"
    if done.finish_reason == "stop_text":
        return f'[ended before the stop text "{exact(escaped(done.stop_text or ""))}"]'
    if done.finish_reason == "loop":
        return "[ended, since it repeated itself]"
    return "[stopped]" if done.finish_reason == "cancelled" else ""


def about(seconds: float) -> str:
    """A duration that is only a guess: `3 s`, `4 min 5 s`."""
    return f"{math.ceil(seconds)} s" if seconds < 59 else duration(seconds)


def budget_note(event: BudgetReached) -> str:
    """How reasoning came to its end before the model thought it should."""
    how = "ended" if event.kind == "soft" else "cut off"
    return f"[reasoning {how} after {event.tokens:,} tokens, its budget]"


def loop_note(event: LoopNoticed) -> str:
    """That a reply says the same again and again."""
    size = "token" if event.period == 1 else f"{event.period} tokens"
    return (
        f"[the {event.part} runs in a loop: the same {size}, {event.repeats} times in a row; "
        "Ctrl-C ends it, /loop stop does by itself]"
    )


def tool_call_lines(call: ToolCall) -> list[str]:
    """The name of a called tool, then its arguments one a line, long ones cut short.

    Whoever asks for permission shows all of it; this only tells what the model does.
    """
    return [f"tool call: {exact(call.name)}", *(f"  {line}" for line in _arguments(call))]


def _arguments(call: ToolCall) -> list[str]:
    try:
        read = parse_json(call.arguments)
    except DocumentError:
        read = None
    if not isinstance(read, dict):
        return _lines(call.arguments)
    return [line for name, value in read.items() for line in _argument(str(name), value)]


def _argument(name: str, value: object) -> list[str]:
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    first, *more = _lines(value)
    return [f"{_shortened(name)}: {first}", *(f"  {line}" for line in more)]


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    shown = [_shortened(line.expandtabs(4)) for line in lines[:_MOST_LINES]]
    left = len(lines) - len(shown)
    return [*shown, f"… {left:,} more lines"] if left else shown


def _shortened(line: str) -> str:
    left = len(line) - _MOST_CHARACTERS
    more = f" … {left:,} more characters" if left > 0 else ""
    return exact(line[:_MOST_CHARACTERS]) + more
