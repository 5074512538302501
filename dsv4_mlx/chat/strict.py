"""A finished reply read by the letter, as the release's own parser does.

Whatever differs from what the encoder would have written is a ChatError. The patterns and the
order of the checks are the release's, so that both accept the same texts.
"""

import re

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.messages import AssistantDict, ChatError, ToolCall, to_json
from dsv4_mlx.chat.tokens import BOS, DSML, END_THINK, EOS, THINK

_BLOCK = f"\n\n<{DSML}tool_calls"
_BLOCK_END = f"</{DSML}tool_calls>"
_INVOKE = f"<{DSML}invoke"
_INVOKE_END = f"</{DSML}invoke"
_PARAMETER = f"<{DSML}parameter"
_PARAMETER_END = f"/{DSML}parameter"
_NAME = re.compile(r'^\s*name="(.*?)">\n$', re.DOTALL)
_PARAMETER_PARTS = re.compile(r'^ name="(.*?)" string="(true|false)">(.*?)<$', re.DOTALL)
_FORBIDDEN = (BOS, EOS, THINK, END_THINK, DSML)


def parse_strict(text: str, thinking_mode: ThinkingMode) -> AssistantDict:
    """The message that `text`, a whole reply with its end token, stands for; ChatError."""
    reader = _Reader(text)
    reasoning = ""
    if thinking_mode == "thinking":
        reasoning = reader.until(END_THINK, _BLOCK)
        _expect(reader.stop == END_THINK, f"{END_THINK} after the reasoning", reader.rest())
    content = reader.until(EOS, _BLOCK)
    _expect(reader.stop is not None, f"{EOS} at the end", "")
    calls: list[ToolCall] = []
    if reader.stop == _BLOCK:
        calls = _block(reader)
        after = reader.until(EOS)
        _expect(not after, f"nothing between the tool calls and {EOS}", after)
    _expect(reader.at_end, f"nothing after {EOS}", reader.rest())
    for token in _FORBIDDEN:
        _expect(token not in content + "\0" + reasoning, f"no {token} in its text", token)
    return {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": [call.to_dict() for call in calls],
    }


class _Reader:
    """A place in the text; `stop` is the marker that was read last, None at the end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.index = 0
        self.stop: str | None = None

    @property
    def at_end(self) -> bool:
        return self.index == len(self.text)

    def until(self, *markers: str) -> str:
        """The text before the nearest marker, which is passed; all the rest without one."""
        found = [(self.text.find(marker, self.index), marker) for marker in markers]
        hits = [(position, marker) for position, marker in found if position >= 0]
        start = self.index
        end, self.stop = min(hits) if hits else (len(self.text), None)
        self.index = end + len(self.stop or "")
        return self.text[start:end]

    def rest(self) -> str:
        return self.text[self.index :]


def _block(reader: _Reader) -> list[ToolCall]:
    calls: list[ToolCall] = []
    while not reader.at_end:
        separator = reader.until(_INVOKE, _BLOCK_END)
        _expect(separator == ">\n", "a line end between tool calls", separator)
        if reader.stop == _BLOCK_END:
            break
        _expect(reader.stop is not None, f"{_INVOKE} or {_BLOCK_END}", "")
        calls.append(_call(reader))
    return calls


def _call(reader: _Reader) -> ToolCall:
    head = reader.until(_PARAMETER, _INVOKE_END)
    name = _NAME.search(head)
    if name is None:
        raise _refusal('name="..." after invoke', head)
    arguments: dict[str, str] = {}
    while reader.stop == _PARAMETER:
        key, value = _parameter(reader.until(_PARAMETER_END))
        _expect(key not in arguments, f"every parameter of {name[1]} once", key)
        arguments[key] = value
        separator = reader.until(_PARAMETER, _INVOKE_END)
        _expect(separator == ">\n", "a line end between parameters", separator)
    return ToolCall(name[1], write_arguments(arguments))


def _parameter(text: str) -> tuple[str, str]:
    """The name of a parameter and its value as JSON text; what is no string is not looked at."""
    match = _PARAMETER_PARTS.search(text)
    if match is None:
        raise _refusal('name="..." string="true|false" and a value after parameter', text)
    key, is_string, value = match.groups()
    return key, to_json(value) if is_string == "true" else value


def write_arguments(arguments: dict[str, str]) -> str:
    """A JSON object from names and values that are JSON text already."""
    return "{" + ", ".join(f"{to_json(key)}: {value}" for key, value in arguments.items()) + "}"


def _expect(is_met: bool, expected: str, found: str) -> None:
    if not is_met:
        raise _refusal(expected, found)


def _refusal(expected: str, found: str) -> ChatError:
    shown = repr(found[:60]) if found else "nothing"
    return ChatError(f"The reply should have {expected}, found {shown}; parse it without strict.")
