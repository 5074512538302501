"""What a terminal asks a server for, as a body of chat completions, and tokens counted there."""

from collections.abc import Mapping, Sequence
from typing import Any

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.engine.sampling import RANGES
from dsv4_mlx.files.documents import DocumentError, parse_json

_WHERE_THERE = ("reasoning_content", "tool_calls", "tool_call_id")


def chat_body(
    model: str,
    turns: Sequence[Turn],
    settings: AnswerSettings,
    checkpoint: ChatSettings,
    seed: int | None,
) -> dict[str, Any]:
    """The request for the next reply after `turns`.

    What a person left as the server has it, as `checkpoint` says, is not said, so that the
    server's own holds.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": messages_of(turns, settings),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    level = settings.effective_thinking.level
    has_budget = bool(settings.budget) and level != "none"
    if has_budget or level != checkpoint.level:
        body["reasoning_effort"] = level
    if has_budget:
        body["thinking"] = {"type": "enabled", "budget_tokens": settings.budget}
    for name in RANGES:
        if (value := getattr(settings.sampling, name)) != getattr(checkpoint.sampling, name):
            body[name] = value
    given = {
        "seed": seed,
        "max_completion_tokens": settings.max_tokens,
        "stop": list(settings.stop),
        "tools": tools_of(settings),
    }
    return body | {name: value for name, value in given.items() if value not in (None, [])}


def messages_of(turns: Sequence[Turn], settings: AnswerSettings) -> list[dict[str, Any]]:
    """The dialogue, system message first."""
    system = [] if settings.system is None else [{"role": "system", "content": settings.system}]
    return [*system, *(_sent(message) for turn in turns for message in turn.messages)]


def _sent(message: Mapping[str, Any]) -> dict[str, Any]:
    """What of a message the server is to read; an answer that was stopped at once says nothing."""
    there = {name: message[name] for name in _WHERE_THERE if message.get(name)}
    return {"role": message["role"], "content": message.get("content") or "", **there}


def tools_of(settings: AnswerSettings) -> list[Mapping[str, Any]]:
    """Definitions with the wrapping around each."""
    return [
        tool if "function" in tool else {"type": "function", "function": tool}
        for tool in settings.tools
    ]


def counting_body(model: str, turns: Sequence[Turn], settings: AnswerSettings) -> dict[str, Any]:
    """The request for the number of tokens that the prompt after `turns` has."""
    messages = [_counted(message) for turn in turns for message in turn.messages]
    body: dict[str, Any] = {"model": model, "messages": messages}
    if settings.system is not None:
        body["system"] = settings.system
    if settings.tools:
        body["tools"] = [_counted_tool(tool["function"]) for tool in tools_of(settings)]
    if (level := settings.effective_thinking.level) != "none":
        body |= {"thinking": {"type": "adaptive"}, "output_config": {"effort": level}}
    return body


def _counted(message: Mapping[str, Any]) -> dict[str, Any]:
    text = str(message.get("content") or "")
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": text}
        return {"role": "user", "content": [result]}
    if message["role"] != "assistant":
        return {"role": message["role"], "content": text}
    blocks: list[dict[str, Any]] = []
    if thought := message.get("reasoning_content"):
        blocks.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text:
        blocks.append({"type": "text", "text": text})
    return {"role": "assistant", "content": [*blocks, *map(_use, message.get("tool_calls") or ())]}


def _use(call: Mapping[str, Any]) -> dict[str, Any]:
    try:
        arguments = parse_json(call["function"]["arguments"])
    except DocumentError:
        arguments = None
    given = arguments if isinstance(arguments, dict) else {"arguments": arguments}
    return {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": given}


def _counted_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": function["name"],
        "description": function.get("description", ""),
        "input_schema": function.get("parameters") or {"type": "object"},
    }
