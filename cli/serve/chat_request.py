"""A body of chat completions as a request."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cli.serve.allowed_tools import KIND, allowed_tools
from cli.serve.dialect import DialectContext
from cli.serve.faults import RequestFault
from cli.serve.likelihoods import likeliest_of
from cli.serve.reading import (
    Body,
    budget_of,
    check_model,
    flag,
    instead_of,
    invalid,
    is_beside,
    mapping,
    most_tokens,
    sampling_of,
    texts,
    thinking_of,
    whole,
    without_cache_mark,
)
from cli.serve.shifts import shifts_of
from dsv4_mlx.chat.messages import ChatError
from dsv4_mlx.chat.requests import read_messages
from dsv4_mlx.files.documents import shown
from dsv4_mlx.serving.request import AnswerFormat, GenerationRequest, ToolChoice

MOST_ANSWERS: Final = 32
ROLES: Final = ("system", "developer", "user", "assistant", "tool", "latest_reminder")


@dataclass(frozen=True)
class ChatOptions:
    """What a body says of how the answer is written, not of what is answered."""

    streams: bool = False
    with_usage: bool = False
    """Whether a stream tells at its end what was used."""
    likelihoods: bool = False
    old_calls: bool = False
    """Whether a call is told as `function_call`, see `old_functions`."""


def chat_request(body: Body, context: DialectContext) -> GenerationRequest:
    """What a body asks for; RequestFault with the field that is wrong."""
    check_model(body, context)
    check_unoffered(body)
    defaults = context.defaults
    most = most_tokens(body, "max_completion_tokens", "max_tokens")
    tools, answer_format = tools_of(body), answer_format_of(body)
    wants_likelihoods = flag(body, "logprobs")
    settings = replace(
        defaults,
        thinking=thinking_of(body, context),
        budget=budget_of(body, defaults.budget),
        tools=tools,
        sampling=sampling_of(body, defaults.sampling),
        max_tokens=defaults.max_tokens if most is None else most,
        stop=texts(body, "stop") or defaults.stop,
    )
    return GenerationRequest(
        messages_of(body),
        settings,
        tool_choice=tool_choice_of(body, tools),
        several_calls=flag(body, "parallel_tool_calls", True),
        answer_format=answer_format,
        answers=whole(body, "n", 1, MOST_ANSWERS) or 1,
        owner=context.owner,
        is_side=is_beside(tools, most, answer_format),
        wants_likelihoods=wants_likelihoods,
        likeliest=likeliest_of(body, wants_likelihoods),
        shifts=shifts_of(body),
    )


def chat_options(body: Body) -> ChatOptions:
    """How the answer is to be written."""
    return replace(stream_options(body), likelihoods=flag(body, "logprobs"))


def stream_options(body: Body) -> ChatOptions:
    """Whether the answer is to be a stream, and what that ends with."""
    options = body.get("stream_options")
    if options is not None and not isinstance(options, Mapping):
        raise invalid("stream_options", "an object", options)
    return ChatOptions(flag(body, "stream"), flag(options or {}, "include_usage"))


def messages_of(body: Body) -> list[Mapping[str, Any]]:
    """The messages, each of which can be read."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", "a list with a message in it", messages)
    for place, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if isinstance(message, Mapping) and role not in ROLES:
            expected = f"one of {', '.join(ROLES)}"
            raise RequestFault("invalid", _role(place, expected, role), "messages")
    try:
        messages = [_of_text(message) for message in messages]
        read_messages([_with_text(message) for message in messages])
    except ChatError as error:
        raise RequestFault("invalid", str(error), "messages") from error
    return messages


def _of_text(message: Any) -> Any:
    """The message, of a tool's with text in the place of all else."""
    parts = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(parts, list) or message["role"] != "tool":
        return message
    return {**message, "content": [_text_part(part) for part in parts]}


def _text_part(part: Any) -> Any:
    if not isinstance(part, Mapping) or part.get("type") == "text":
        return part
    return {"type": "text", "text": instead_of(part.get("type"))}


def _role(place: int, expected: str, role: object) -> str:
    return f"messages[{place}].role must be {expected}, got {shown(role)}."


def _with_text(message: Any) -> Any:
    is_empty = isinstance(message, Mapping) and message.get("content", "") is None
    return {**message, "content": ""} if is_empty else message


def tools_of(body: Body) -> tuple[Mapping[str, Any], ...]:
    """Definitions of functions; tools of other types are the client's or another server's."""
    tools = body.get("tools")
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise invalid("tools", "a list", tools)
    return tuple(
        without_cache_mark(_tool(tool, f"tools[{place}]"))
        for place, tool in enumerate(tools)
        if not _is_elsewhere(tool)
    )


def _is_elsewhere(tool: Any) -> bool:
    return isinstance(tool, Mapping) and tool.get("type", "function") != "function"


def left_out(body: Body) -> tuple[str, ...]:
    """Types of the tools that are not here, of a body whose tools can be read."""
    return tuple(str(tool["type"]) for tool in body.get("tools") or () if _is_elsewhere(tool))


def _tool(tool: Any, where: str) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        raise invalid(where, "an object with a function", tool)
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise invalid(f"{where}.function.name", "a text", function.get("name"))
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise invalid(f"{where}.function.parameters", "a schema, an object", parameters)
    return tool  # type: ignore[no-any-return]


def tool_choice_of(body: Body, tools: tuple[Mapping[str, Any], ...]) -> ToolChoice:
    """Which calls the answer has to have, or may; one of a tool that is left out is none."""
    choice = body.get("tool_choice")
    if choice is None:
        return ToolChoice()
    if choice in ("auto", "none"):
        return ToolChoice(choice)
    if choice in ("required", "any"):
        return ToolChoice() if left_out(body) and not tools else ToolChoice("required")
    names = [tool["function"]["name"] for tool in tools]
    if isinstance(choice, Mapping) and choice.get("type") == KIND:
        given = mapping(choice, KIND, "tool_choice.")
        return allowed_tools(given, f"tool_choice.{KIND}", names, _function_name)
    if _is_elsewhere(choice) and choice.get("type") in left_out(body):
        return ToolChoice()
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        expected = f"auto, none, required, {KIND} or a function with its name"
        raise invalid("tool_choice", expected, choice)
    if name not in names:
        raise invalid("tool_choice", f"one of the tools {', '.join(names) or '(none)'}", name)
    return ToolChoice("named", name)


def _function_name(tool: Body, where: str) -> str:
    name = mapping(tool, "function", f"{where}.").get("name")
    if not isinstance(name, str):
        raise invalid(f"{where}.function.name", "a text", name)
    return name


def answer_format_of(body: Body) -> AnswerFormat:
    """What the answer has to be."""
    wanted = body.get("response_format")
    if wanted is None:
        return AnswerFormat()
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind == "text":
        return AnswerFormat()
    if kind == "json_object":
        return AnswerFormat("json")
    if kind != "json_schema":
        expected = "an object of type text, json_object or json_schema"
        raise invalid("response_format", expected, wanted)
    described = wanted.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, Mapping):
        raise invalid("response_format.json_schema.schema", "a schema, an object", schema)
    return AnswerFormat("schema", schema)


def check_unoffered(body: Body) -> None:
    """RequestFault for what would change the answer and is not offered; every field that is not
    known is passed over."""
    if "audio" in (texts(body, "modalities") or ()):
        raise RequestFault("invalid", "This model writes text and no audio.", "modalities")
