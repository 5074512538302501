"""OpenAI-style message dictionaries as typed values, and what happens to them before rendering.

The rules are those of the release's encoder: tool results become blocks of a user turn,
neighbouring user messages become one turn, results follow the order of the calls, and old
reasoning is dropped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from dsv4_mlx.errors import PromptError


class ChatError(PromptError, ValueError):
    """Messages that cannot be written as a prompt, or a reply that strict parsing refuses."""


class FunctionDict(TypedDict):
    """The `function` of an OpenAI tool call; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class ToolCallDict(TypedDict):
    """One OpenAI tool call, without the id that only a server gives."""

    type: str
    function: FunctionDict


class AssistantDict(TypedDict):
    """A parsed reply; it can be appended to the messages as it is."""

    role: str
    content: str
    reasoning_content: str
    tool_calls: list[ToolCallDict]


@dataclass(frozen=True)
class ToolCall:
    """One call. `arguments` is JSON text; `raw` is how the model spelled it, where it did."""

    name: str
    arguments: str
    id: str = ""
    raw: str = ""

    def to_dict(self) -> ToolCallDict:
        function: FunctionDict = {"name": self.name, "arguments": self.arguments}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class TextBlock:
    """Text that a user wrote."""

    text: str


@dataclass(frozen=True)
class ToolResult:
    """What the call with this id answered."""

    call_id: str
    text: str


@dataclass(frozen=True)
class Message:
    """One turn. A user turn holds blocks, every other role holds `content`."""

    role: str
    content: str | None = None
    blocks: tuple[TextBlock | ToolResult, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    response_format: Any = None
    task: str | None = None
    wo_eos: bool = False


def parse_messages(raw: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Typed messages, with tool messages and neighbouring user messages merged into user turns."""
    merged: list[Message] = []
    for index, entry in enumerate(raw):
        message = _Reader(f"messages[{index}]", entry).message()
        previous = merged[-1] if merged and merged[-1].role == "user" else None
        is_result = entry.get("role") == "tool"
        # A user message does not join a turn that carries a task; a tool result does.
        if message.role == "user" and previous and (is_result or previous.task is None):
            merged[-1] = replace(previous, blocks=previous.blocks + message.blocks)
        else:
            merged.append(message)
    return merged


def sort_tool_results(messages: Sequence[Message]) -> list[Message]:
    """Tool results in the order of the calls before them; an unknown id counts as the first."""
    order: dict[str, int] = {}
    done = []
    for message in messages:
        if message.role == "assistant" and message.tool_calls:
            order = {call.id: index for index, call in enumerate(message.tool_calls) if call.id}
        if message.role == "user":
            message = replace(message, blocks=_sorted_blocks(message.blocks, order))
        done.append(message)
    return done


def _sorted_blocks(
    blocks: tuple[TextBlock | ToolResult, ...], order: Mapping[str, int]
) -> tuple[TextBlock | ToolResult, ...]:
    """Only the places of results are filled anew; text stays where it is."""
    results = [block for block in blocks if isinstance(block, ToolResult)]
    ordered = iter(sorted(results, key=lambda result: order.get(result.call_id, 0)))
    return tuple(next(ordered) if isinstance(block, ToolResult) else block for block in blocks)


_KEPT_ROLES = frozenset({"user", "system", "latest_reminder", "direct_search_results"})


def drop_thinking(messages: Sequence[Message]) -> list[Message]:
    """Before the last user turn: reasoning goes, and so do developer and unknown messages."""
    last_user = last_user_index(messages)
    kept = []
    for index, message in enumerate(messages):
        if message.role in _KEPT_ROLES or index >= last_user:
            kept.append(message)
        elif message.role == "assistant":
            kept.append(replace(message, reasoning=""))
    return kept


def last_user_index(messages: Sequence[Message]) -> int:
    """The index of the last user or developer message, -1 without one."""
    indices = range(len(messages) - 1, -1, -1)
    return next((i for i in indices if messages[i].role in ("user", "developer")), -1)


@dataclass(frozen=True)
class _Reader:
    """Reads one dictionary; `where` names it in errors. Keys this program does not use are left."""

    where: str
    raw: Mapping[str, Any] = field(repr=False)

    def message(self) -> Message:
        if not isinstance(self.raw, Mapping):
            raise ChatError(f"{self.where} must be a dictionary, got {_kind(self.raw)}.")
        role = self.raw.get("role")
        if not isinstance(role, str):
            raise ChatError(f"{self.where} needs a role, got {role!r}; name one, such as 'user'.")
        if role == "user":
            # As in the release, a user turn keeps no tools and no response format.
            return Message("user", blocks=self._user_blocks(), task=self._task())
        if role == "tool":
            result = ToolResult(self._string("tool_call_id"), self._tool_content())
            return Message("user", blocks=(result,))
        return self._other(role)

    def _other(self, role: str) -> Message:
        content = self._content()
        return Message(
            role,
            # As the release does, a reminder without content is written as the word None.
            content=str(content) if role == "latest_reminder" else content,
            reasoning=self._string("reasoning_content"),
            tool_calls=tuple(self._tool_calls()),
            tools=tuple(self._tools()),
            response_format=self.raw.get("response_format"),
            task=self._task(),
            wo_eos=bool(self.raw.get("wo_eos", False)),
        )

    def _user_blocks(self) -> tuple[TextBlock, ...]:
        content = self.raw.get("content", "")
        texts = self._parts(content) if isinstance(content, list) else [self._content() or ""]
        return tuple(TextBlock(text) for text in texts)

    def _content(self) -> str | None:
        content = self.raw.get("content")
        if isinstance(content, list):
            return "\n\n".join(self._parts(content))
        if content is None or isinstance(content, str):
            return content
        raise ChatError(
            f"{self.where}: content must be a string or a list of parts, got {_kind(content)}."
        )

    def _tool_content(self) -> str:
        """A result that is null is written as the word None, as the release does."""
        return str(self._content()) if "content" in self.raw else ""

    def _task(self) -> str | None:
        return None if self.raw.get("task") is None else self._string("task")

    def _parts(self, parts: Sequence[Any]) -> list[str]:
        if not all(isinstance(part, Mapping) for part in parts):
            raise ChatError(f"{self.where}: every part of a content list must be a dictionary.")
        return [
            self._part_text(part) if part.get("type") == "text" else _unsupported(part)
            for part in parts
        ]

    def _part_text(self, part: Mapping[str, Any]) -> str:
        text = part.get("text", "")
        if not isinstance(text, str):
            raise ChatError(f"{self.where}: a text part must hold a string, got {_kind(text)}.")
        return text

    def _string(self, key: str) -> str:
        value = self.raw.get(key)
        if value is None or isinstance(value, str):
            return value or ""
        raise ChatError(f"{self.where}: {key} must be a string, got {_kind(value)}.")

    def _list(self, key: str) -> list[Any]:
        value = self.raw.get(key) or []
        if isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value):
            return list(value)
        raise ChatError(f"{self.where}: {key} must be a list of dictionaries, got {_kind(value)}.")

    def _tools(self) -> list[Mapping[str, Any]]:
        tools = self._list("tools")
        if not all(isinstance(tool.get("function"), Mapping) for tool in tools):
            raise ChatError(f"{self.where}: every tool needs a 'function' dictionary.")
        return [tool["function"] for tool in tools]

    def _tool_calls(self) -> list[ToolCall]:
        return [self._tool_call(call) for call in self._list("tool_calls")]

    def _tool_call(self, call: Mapping[str, Any]) -> ToolCall:
        function = call.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ChatError(f"{self.where}: every tool call needs a 'function' with a 'name'.")
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):
            arguments = to_json(arguments)
        if not isinstance(arguments, str):
            raise ChatError(
                f"{self.where}: the arguments of {function['name']} must be the text of a JSON "
                f"object, got {_kind(arguments)}."
            )
        return ToolCall(function["name"], arguments, id=_call_id(call, function))


def _call_id(call: Mapping[str, Any], function: Mapping[str, Any]) -> str:
    return str(call.get("id") or function.get("id") or "")


def _unsupported(part: Mapping[str, Any]) -> str:
    return f"[Unsupported {part.get('type')}]"


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"


def to_json(value: object) -> str:
    """JSON as the release writes it: ", " and ": " between, characters unescaped."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ChatError(f"A value that is no JSON stands in the messages: {error}.") from error
