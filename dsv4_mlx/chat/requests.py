"""What requests of other programs say, in this program's words: messages and levels of thinking.

Programs spell how hard a model should think in many ways. All of them come down to a level:

    none   none, off, no, disabled, minimal; `thinking` or `enable_thinking` off; a budget of 0
    low    low; the default level where a release has no low
    high   medium, high
    max    xhigh, max, maximum
    the default level: auto, default, on, enabled; `thinking` or `enable_thinking` on

What turns reasoning off wins over an effort. Any other word is refused with the list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dsv4_mlx.chat.effort import EFFORT_TABLES, EffortTable, effort_levels
from dsv4_mlx.chat.messages import ChatError, parse_messages
from dsv4_mlx.engine.sampling import RANGES, Range
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import DocumentError, parse_json, shown

_LEVELS: Final[Mapping[str, tuple[str, ...]]] = {
    "none": ("none", "off", "no", "disabled", "minimal"),
    "low": ("low",),
    "high": ("medium", "high"),
    "max": ("xhigh", "max", "maximum"),
    "": ("auto", "default", "on", "enabled", "adaptive"),
}
_WORDS: Final = {word: level for level, words in _LEVELS.items() for word in words}

REQUEST_FIELDS: Final = ("thinking", "enable_thinking", "reasoning_effort", "reasoning")
"""Fields of a request beside `chat_template_kwargs` that say how to think."""
TEMPLATE_FIELDS: Final = (
    "thinking",
    "enable_thinking",
    "reasoning_effort",
    "drop_thinking",
    "effort_table",
    "continue_final_message",
)
"""What `chat_template_kwargs` may hold."""


class FieldError(UsageError):
    """A field of a request that says what there is not; `field` is its name there."""

    def __init__(self, text: str, field: str) -> None:
        super().__init__(text)
        self.field = field


@dataclass(frozen=True)
class _Budget:
    """Tokens of reasoning that a field of its own allows."""

    tokens: object


def level_asked(
    table: EffortTable,
    switches: Iterable[tuple[str, object]],
    efforts: Iterable[tuple[str, object]],
) -> str | None:
    """The thinking level that named switches and efforts ask for; None is the default one.

    A value of None says nothing, and the first effort that says something holds. UsageError.
    """
    levels = [_switch(name, value) for name, value in switches if value is not None]
    levels += [_effort(name, value) for name, value in efforts if value is not None]
    if "none" in levels:
        return "none"
    level = next(filter(None, levels), None)
    return level if level in effort_levels(table) else None


def template_options(request: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the chat template that a request asks for, its own fields first.

    Raises UsageError for an option that there is not, or a word that means no level.
    """
    kwargs = "chat_template_kwargs"
    given = request.get(kwargs)
    if given is not None and not isinstance(given, Mapping):
        raise FieldError(f"{kwargs} must be an object, got {shown(given)}.", kwargs)
    options = dict(given or {})
    check_template_fields(options, f"{kwargs}.")
    reasoning = request.get("reasoning")
    if reasoning is not None and not isinstance(reasoning, Mapping):
        reasoning = {"effort": reasoning}
    reasoning = reasoning or {}
    switches = [
        *((name, request.get(name)) for name in ("thinking", "enable_thinking")),
        ("reasoning.enabled", reasoning.get("enabled")),
        *(
            (f"{kwargs}.{name}", options.pop(name, None))
            for name in ("thinking", "enable_thinking")
        ),
    ]
    if reasoning.get("max_tokens") is not None:
        switches.append(("reasoning.max_tokens", _Budget(reasoning["max_tokens"])))
    efforts = [
        ("reasoning_effort", request.get("reasoning_effort")),
        ("reasoning.effort", reasoning.get("effort")),
        (f"{kwargs}.reasoning_effort", options.pop("reasoning_effort", None)),
    ]
    if any(value is not None for _, value in (*switches, *efforts)):
        level = level_asked("2026-07-31", switches, efforts)
        # Both, since a server has defaults of its own for either.
        options |= dict.fromkeys(("thinking", "enable_thinking"), level != "none")
        if level not in (None, "none"):
            options["reasoning_effort"] = level
    return options


def check_template_fields(options: Mapping[str, Any], before: str = "") -> None:
    """UsageError for options of the chat template that there are not, or of another kind; `before`
    stands before their names in the request."""
    for name in options:
        if name not in TEMPLATE_FIELDS:
            raise UsageError(
                f"The chat template takes {', '.join(TEMPLATE_FIELDS)}, got {shown(name)}."
            )
    for name in ("drop_thinking", "continue_final_message"):
        if not isinstance(options.get(name, True), bool):
            raise FieldError(
                f"{before}{name} must be true or false, got {shown(options[name])}.",
                before + name,
            )
    table, name = options.get("effort_table"), f"{before}effort_table"
    if table is not None and table not in EFFORT_TABLES:
        raise FieldError(f"{name} must be {' or '.join(EFFORT_TABLES)}, got {shown(table)}.", name)


def _switch(name: str, value: object) -> str:
    """The level that a switch asks for: "none", or "" for the default one."""
    if isinstance(value, _Budget):
        return _budget(name, value.tokens)
    if not isinstance(value, Mapping):
        return _effort(name, value)
    kind, budget = value.get("type"), value.get("budget_tokens")
    if kind is None and budget is None:
        raise FieldError(
            f"{name} must have a type, enabled or disabled, got {shown(dict(value))}.", name
        )
    level = "" if kind is None else _effort(f"{name}.type", kind)
    if budget is None:
        return level
    return _budget(f"{name}.budget_tokens", budget) or level


def _budget(name: str, tokens: object) -> str:
    """The level of a budget of reasoning: "none" without a token, "" for the default one."""
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        raise FieldError(f"{name} must be a whole number from 0 on, got {shown(tokens)}.", name)
    return "" if tokens else "none"


def _effort(name: str, value: object) -> str:
    """The level that a word names, or a switch that stands in its place; "" is the default one."""
    if isinstance(value, bool):
        return "" if value else "none"
    word = value.strip().lower() if isinstance(value, str) else None
    if word not in _WORDS:
        raise FieldError(f"{name} must be one of {', '.join(_WORDS)}, got {shown(value)}.", name)
    return _WORDS[word]


# Messages


def check_messages(messages: object) -> None:
    """ChatError unless these are dictionaries at all, with contents that can be walked over."""
    if not isinstance(messages, list | tuple) or not messages:
        raise ChatError(f"messages must be a list with a message in it, got {shown(messages)}.")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ChatError(f"messages[{index}] must be a dictionary, got {shown(message)}.")
        parts = message.get("content")
        if isinstance(parts, list) and not all(isinstance(part, Mapping) for part in parts):
            raise ChatError(f"messages[{index}]: every part of a content must be a dictionary.")


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as other programs write them, as the encoder takes them: `developer` is `system`,
    `reasoning` is `reasoning_content`, and content is text, its parts joined as the encoder does.

    ChatError names the message and what is wrong with it, such as an image.
    """
    check_messages(messages)
    read = [_message(dict(message), f"messages[{n}]") for n, message in enumerate(messages)]
    parse_messages(read)
    return read


def _message(message: dict[str, Any], where: str) -> dict[str, Any]:
    if message.get("role") == "developer":
        message["role"] = "system"
    if not message.get("reasoning_content") and message.get("reasoning") is not None:
        message["reasoning_content"] = message["reasoning"]
    if isinstance(message.get("content"), list):
        message["content"] = "\n\n".join(_part(part, where) for part in message["content"])
    if message.get("role") == "tool" and message.get("content", "") is None:
        message["content"] = str(None)  # as the encoder writes it; mlx-lm would make it nothing
    _require_text(message, where)
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_call(call) for call in message["tool_calls"]]
    return message


def _part(part: Mapping[str, Any], where: str) -> str:
    text = part.get("text", "")
    if part.get("type") != "text" or not isinstance(text, str):
        found = "a text that is none" if part.get("type") == "text" else shown(part.get("type"))
        raise ChatError(f"{where}: this model reads parts of type 'text' only, got {found}.")
    return text


def _require_text(message: Mapping[str, Any], where: str) -> None:
    for key in ("content", "reasoning_content"):
        value = message.get(key)
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ChatError(f"{where}: {key} holds half a character, a lone surrogate.")


def _call(call: Any) -> Any:
    """A call with its arguments as an object; text that is no JSON is what the encoder makes it."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = parse_json(function["arguments"])
    except DocumentError:
        arguments = {"arguments": function["arguments"]}
    return {**call, "function": {**function, "arguments": arguments}}


# Numbers


def check_generation(request: Mapping[str, Any]) -> None:
    """UsageError for what says how to generate and would only fail once the reply has begun."""
    stop, seed = request.get("stop"), request.get("seed")
    words = stop if isinstance(stop, list) else [stop]
    if stop is not None and not all(isinstance(word, str) for word in words):
        raise UsageError(f"stop must be a text or a list of texts, got {shown(stop)}.")
    if seed is not None and seed not in _SEEDS:
        raise UsageError(f"seed must be {_SEEDS.expected(seed)}, got {shown(seed)}.")
    for name in _NUMBERS:
        value = request.get(name, 0.0)
        # What is no number has been refused, and 0 means off for all of them.
        if isinstance(value, int | float) and value != 0 and value not in _range(name):
            expected = _range(name).expected(value)
            raise UsageError(f"{name} must be {expected}, got {shown(value)}.")


_SEEDS: Final = Range(0, whole=True)
_NUMBERS: Final = (*RANGES, "presence_penalty", "frequency_penalty")


def _range(name: str) -> Range:
    return RANGES.get(name, Range(-1e30, 1e30))
