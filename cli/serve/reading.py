"""What all dialects read alike: fields of a body, each with a sentence for every other value."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cli.serve.dialect import DialectContext
from cli.serve.faults import RequestFault
from dsv4_mlx.chat.requests import TEMPLATE_FIELDS, FieldError, level_asked, template_options
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.engine.sampling import RANGES, Range, Sampling
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import shown
from dsv4_mlx.serving.request import AnswerFormat

Body = Mapping[str, Any]
SEEDS = Range(0, whole=True)
MOST_STOPS = 64
SIDE_TOKENS = 512
NO_IMAGES = "this model reads text alone"
_CACHE_MARK = "cache_control"


def invalid(field: str, expected: str, found: object) -> RequestFault:
    """The fault of a field that is something else than expected."""
    return RequestFault("invalid", f"{field} must be {expected}, got {shown(found)}.", field)


def instead_of(kind: object) -> str:
    """What the model reads in the place of an image, or the like, that a tool gave: it would be in
    every later request too, so that a refusal would end the conversation."""
    return f"[{kind}: {NO_IMAGES}]"


def check_model(body: Body, context: DialectContext) -> None:
    """RequestFault unless the body names the model, by one of its names, or names none."""
    name = body.get("model")
    if name is None:
        return
    if not isinstance(name, str):
        raise invalid("model", "a text", name)
    if name not in context.names:
        there = ", ".join(context.names)
        raise RequestFault(
            "unknown_model",
            f"There is no model {shown(name)} here; there is {there}. "
            "`--alias` gives it more names.",
            "model",
        )


def flag(body: Body, field: str, default: bool = False) -> bool:
    """True or false; null is the default."""
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise invalid(field, "true or false", value)
    return value


def mapping(body: Body, field: str, where: str = "") -> Mapping[str, Any]:
    """An object, an empty one where nothing is said; `where` is what the field stands in."""
    value = body.get(field)
    if not isinstance(value, Mapping | None):
        raise invalid(where + field, "an object", value)
    return value or {}


def whole(body: Body, field: str, least: int, most: int | None = None) -> int | None:
    """A whole number in a range, None where nothing is said."""
    value = body.get(field)
    if value is None:
        return None
    allowed = Range(least, whole=True) if most is None else Range(least, most, whole=True)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value not in allowed:
        raise invalid(field, allowed.expected(value), value)
    return int(value)


def most_tokens(body: Body, *fields: str) -> int | None:
    """What the first of `fields` says that says anything; -1 is no bound, as other servers have
    it."""
    given = (field for field in fields if body.get(field) not in (None, -1))
    field = next(given, None)
    return None if field is None else whole(body, field, 1)


def texts(body: Body, field: str) -> tuple[str, ...] | None:
    """A text or a list of texts, none of them empty; None where nothing is said."""
    value = body.get(field)
    if value is None:
        return None
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise invalid(field, "a text or a list of texts", value)
    if len(listed) > MOST_STOPS:
        raise invalid(field, f"at most {MOST_STOPS} texts", value)
    return tuple(one for one in listed if one)


def sampling_of(body: Body, defaults: Sampling) -> Sampling:
    """The numbers of a body that say how tokens are drawn; a seed of -1 is none."""
    given: dict[str, Any] = {}
    for name, allowed in RANGES.items():
        value = body.get(name)
        if value is None:
            continue
        if name == "top_k" and value == -1:  # what other servers have for no bound
            value = 0
        if value not in allowed:
            raise invalid(name, allowed.expected(value), value)
        given[name] = value
    seed = body.get("seed")
    if seed is not None and seed != -1:
        if seed not in SEEDS:
            raise invalid("seed", SEEDS.expected(seed), seed)
        given["seed"] = seed
    return replace(defaults, **given)


def thinking_of(body: Body, context: DialectContext) -> Thinking:
    """The level that a body asks for in any of the ways of `chat.requests`; the server's own where
    it asks for none."""
    asked = dict(body)
    kwargs = asked.get("chat_template_kwargs")
    if isinstance(kwargs, Mapping):  # a template of another model may have more of them
        known = {name: value for name, value in kwargs.items() if name in TEMPLATE_FIELDS}
        asked["chat_template_kwargs"] = known
    try:
        options = template_options(asked)
        switch, effort = options.get("enable_thinking"), options.get("reasoning_effort")
        if switch is None and effort is None:
            return context.defaults.thinking
        return level_of(context, [("thinking", switch)], [("reasoning_effort", effort)])
    except FieldError as error:
        raise RequestFault("invalid", str(error), error.field) from error


def budget_of(body: Body, default: int | None) -> int | None:
    """Tokens of reasoning that `thinking.budget_tokens` or `reasoning.max_tokens` allows, which
    `thinking_of` has checked."""
    for name, tokens in (("thinking", "budget_tokens"), ("reasoning", "max_tokens")):
        asked = body.get(name)
        if isinstance(asked, Mapping) and asked.get(tokens) is not None:
            return int(asked[tokens])
    return default


def level_of(
    context: DialectContext,
    switches: Sequence[tuple[str, object]],
    efforts: Sequence[tuple[str, object]],
) -> Thinking:
    """The level that switches and efforts name, as `chat.requests.level_asked` reads them; the
    highest that the model's context is large enough for, where it is not for this one."""
    checkpoint = context.checkpoint
    try:
        level = level_asked(checkpoint.effort_table, switches, efforts)
    except FieldError as error:
        raise RequestFault("invalid", str(error), error.field) from error
    try:
        return checkpoint.thinking(level)
    except UsageError:
        return checkpoint.thinking(checkpoint.levels[-2])


def is_beside(tools: Sequence[Any], most: int | None, answer_format: AnswerFormat) -> bool:
    """Whether a request is beside a conversation, as for a title: it has no tools, and asks for at
    most `SIDE_TOKENS` tokens or for data."""
    is_short = most is not None and most <= SIDE_TOKENS
    return not tools and (is_short or answer_format.kind != "text")


def without_cache_mark(entry: Body) -> dict[str, Any]:
    """A tool's definition without the mark of what to cache, which moves from turn to turn."""
    return {key: value for key, value in entry.items() if key != _CACHE_MARK}
