"""Bodies of OpenAI's responses, read into requests.

A request goes on from an earlier response by its id, or brings the whole conversation; instructions
are those of the request alone. Tools and items that OpenAI's servers run or make are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cli.serve.dialect import DialectContext
from cli.serve.faults import RequestFault
from cli.serve.likelihoods import MOST_LIKELIEST
from cli.serve.reading import (
    Body,
    check_model,
    flag,
    invalid,
    is_beside,
    level_of,
    mapping,
    sampling_of,
    texts,
    whole,
)
from cli.serve.responses_items import ItemReader
from cli.serve.responses_kept import KeptResponses, ResponseItem
from cli.serve.responses_tools import ClientTools, read_choice, read_tools
from cli.serve.sealing import Seals
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.serving.request import AnswerFormat, GenerationRequest

SEALED = "reasoning.encrypted_content"
LIKELIHOODS = "message.output_text.logprobs"
"""What `include` may ask for."""
_NOT_HERE = {
    "background": "a response is made while its client waits",
    "conversation": "conversations are kept by previous_response_id alone",
    "prompt": "prompts are not kept here",
}


@dataclass(frozen=True)
class ResponseAsked:
    """A body, read."""

    request: GenerationRequest
    tools: ClientTools
    items: Sequence[ResponseItem]
    """What the body brings, without what it goes on from."""
    previous: str | None
    left_out: tuple[str, ...]
    """Types of tools and items that are of no use here, and what else is to be included."""
    is_sealed: bool = False
    """Whether reasoning comes back sealed too."""


def read_body(
    body: Body, context: DialectContext, seals: Seals, kept: KeptResponses
) -> ResponseAsked:
    """What `body` asks for; RequestFault names a field that is wrong."""
    check_model(body, context)
    _check_not_here(body)
    tools = read_tools(body)
    choice = read_choice(body, tools)
    items, previous = _items(body), _text(body, "previous_response_id")
    reader = ItemReader(seals, context.owner, lambda name: kept.item(context.owner, name))
    if instructions := _text(body, "instructions"):
        reader.messages.append({"role": "system", "content": instructions})
    if previous is not None:
        reader.read(kept.history(context.owner, previous), "previous_response_id")
    reader.read(items)
    most, answer_format = whole(body, "max_output_tokens", 1), _format(body)
    settings = replace(
        context.defaults,
        thinking=_thinking(body, context),
        tools=tools.definitions,
        sampling=sampling_of(body, context.defaults.sampling),
        max_tokens=most or context.defaults.max_tokens,
    )
    included = texts(body, "include") or ()
    likeliest = whole(body, "top_logprobs", 0, MOST_LIKELIEST) or 0
    request = GenerationRequest(
        reader.messages,
        settings,
        tool_choice=choice,
        several_calls=flag(body, "parallel_tool_calls", True),
        answer_format=answer_format,
        owner=context.owner,
        # One that is stored may be gone on from.
        is_side=not flag(body, "store", True) and is_beside(tools.definitions, most, answer_format),
        wants_likelihoods=LIKELIHOODS in included or likeliest > 0,
        likeliest=likeliest,
    )
    other = (name for name in included if name not in (SEALED, LIKELIHOODS))
    left_out = tuple(dict.fromkeys((*tools.left_out, *reader.left_out, *other)))
    return ResponseAsked(request, tools, items, previous, left_out, SEALED in included)


def _check_not_here(body: Body) -> None:
    for field, reason in _NOT_HERE.items():
        if body.get(field):
            raise RequestFault("invalid", f"{field} is not offered: {reason}.", field)


def _text(body: Body, field: str) -> str | None:
    value = body.get(field)
    if not isinstance(value, str | None):
        raise invalid(field, "a text", value)
    return value or None


def _items(body: Body) -> Sequence[ResponseItem]:
    """The items of `input`; a text is a user's message."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    if given is None and body.get("previous_response_id"):
        return []
    if not isinstance(given, list) or not (given or body.get("previous_response_id")):
        raise invalid("input", "a text or a list with an item in it", given)
    return given


def _thinking(body: Body, context: DialectContext) -> Thinking:
    effort = mapping(body, "reasoning").get("effort")
    if effort is None:
        return context.defaults.thinking
    return level_of(context, [], [("reasoning.effort", effort)])


def _format(body: Body) -> AnswerFormat:
    asked = mapping(mapping(body, "text"), "format", "text.")
    match asked.get("type", "text"):
        case "text":
            return AnswerFormat()
        case "json_object":
            return AnswerFormat("json")
        case "json_schema" if isinstance(schema := asked.get("schema"), Mapping):
            return AnswerFormat("schema", schema)
        case "json_schema":
            raise invalid("text.format.schema", "an object", asked.get("schema"))
        case kind:
            raise invalid("text.format.type", "text, json_object or json_schema", kind)
