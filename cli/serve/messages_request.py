"""Bodies of Anthropic's messages, read into requests.

Tools that Anthropic's servers run themselves, such as its web search, are not here: they are left
out, and a choice that names one is none. Thinking is off unless it is asked for, as it is there.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from cli.serve.dialect import DialectContext
from cli.serve.messages_blocks import conversation, system_messages
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
from cli.serve.sealing import Seals
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.serving.request import AnswerFormat, GenerationRequest, ToolChoice

_CHOICES: Final[Mapping[str, ToolChoice]] = {
    "auto": ToolChoice("auto"),
    "any": ToolChoice("required"),
    "none": ToolChoice("none"),
}


def read_body(body: Body, context: DialectContext, seals: Seals) -> GenerationRequest:
    """What `body` asks for; RequestFault names a field that is wrong."""
    check_model(body, context)
    tools = read_tools(body)
    choice, several = _tool_choice(body, tools)
    answer_format = _format(body)
    settings = _settings(body, context, tools)
    return GenerationRequest(
        [
            *system_messages(body.get("system")),
            *conversation(body.get("messages"), seals, context.owner),
        ],
        settings,
        tool_choice=choice,
        several_calls=several,
        answer_format=answer_format,
        owner=context.owner,
        is_side=is_beside(tools, settings.max_tokens, answer_format),
    )


def _settings(
    body: Body, context: DialectContext, tools: tuple[Mapping[str, Any], ...]
) -> AnswerSettings:
    thinking, budget = _thinking(body, context)
    return replace(
        context.defaults,
        thinking=thinking,
        tools=tools,
        sampling=sampling_of(body, context.defaults.sampling),
        max_tokens=whole(body, "max_tokens", 1) or context.defaults.max_tokens,
        budget=budget,
        stop=texts(body, "stop_sequences") or context.defaults.stop,
    )


def _thinking(body: Body, context: DialectContext) -> tuple[Thinking, int | None]:
    """The level, and the tokens that bound the reasoning."""
    asked = mapping(body, "thinking")
    effort = mapping(body, "output_config").get("effort")
    if not asked:
        return Thinking("chat"), None
    level = level_of(context, [("thinking", asked)], [("output_config.effort", effort)])
    budget = asked.get("budget_tokens")
    return level, context.defaults.budget if budget is None else budget


def _format(body: Body) -> AnswerFormat:
    """The format of the answer, in its present place or the one it had before."""
    asked = mapping(mapping(body, "output_config"), "format", "output_config.")
    asked = asked or mapping(body, "output_format")
    match asked.get("type"):
        case None:
            return AnswerFormat()
        case "json_schema" if isinstance(schema := asked.get("schema"), Mapping):
            return AnswerFormat("schema", schema)
        case "json_schema":
            raise invalid("output_config.format.schema", "an object", asked.get("schema"))
        case kind:
            raise invalid("output_config.format.type", "json_schema", kind)


# Tools


def read_tools(body: Body) -> tuple[Mapping[str, Any], ...]:
    """The tools that the client runs, as definitions that the encoder takes."""
    tools = body.get("tools")
    if not isinstance(tools, list | None):
        raise invalid("tools", "a list", tools)
    return tuple(
        _definition(tool, f"tools.{place}")
        for place, tool in enumerate(tools or ())
        if not _is_served(tool)
    )


def _is_served(tool: object) -> bool:
    """Whether a tool is one of Anthropic's own, which come without a schema."""
    if not isinstance(tool, Mapping):
        return False
    return tool.get("type") not in (None, "custom") and "input_schema" not in tool


def left_out(body: Body) -> tuple[str, ...]:
    """Names of the tools that are not here."""
    return tuple(str(tool.get("name")) for tool in body.get("tools") or () if _is_served(tool))


def _definition(tool: object, where: str) -> Mapping[str, Any]:
    if not isinstance(tool, Mapping):
        raise invalid(where, "an object", tool)
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not name:
        raise invalid(f"{where}.name", "the name of a tool", name)
    if not isinstance(schema, Mapping | None):
        raise invalid(f"{where}.input_schema", "an object", schema)
    description = tool.get("description")
    told = {"description": description} if isinstance(description, str) else {}
    return {"name": name, **told, "parameters": schema or {"type": "object", "properties": {}}}


def _tool_choice(body: Body, tools: tuple[Mapping[str, Any], ...]) -> tuple[ToolChoice, bool]:
    """Which tools are to be called, and whether more than one at once."""
    asked = mapping(body, "tool_choice")
    several = not flag(asked, "disable_parallel_tool_use")
    kind, name = asked.get("type", "auto"), asked.get("name")
    missing = left_out(body)
    if kind == "tool":
        if not isinstance(name, str):
            raise invalid("tool_choice.name", "the name of a tool", name)
        return ToolChoice() if name in missing else ToolChoice("named", name), several
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise invalid("tool_choice.type", f"tool, {', '.join(_CHOICES)}", kind)
    if kind == "any" and missing and not tools:
        return ToolChoice(), several
    return _CHOICES[kind], several
