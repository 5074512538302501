"""A finished reply read by the letter, as the release's own parser does.

Whatever differs from what the encoder would have written is a ChatError. The patterns and the
order of the checks are the release's, so that both accept the same texts.
"""

import re

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.marks import MARKED, mark, spelled_out
from dsv4_mlx.chat.messages import AssistantDict, ChatError, ToolCall, to_json
from dsv4_mlx.chat.tokens import DSML, END_THINK, EOS

_EOS, _END_THINK, _DSML = mark(EOS), mark(END_THINK), mark(DSML)
_BLOCK = f"\n\n<{_DSML}tool_calls"
_BLOCK_END = f"</{_DSML}tool_calls>"
_INVOKE = f"<{_DSML}invoke"
_INVOKE_END = f"</{_DSML}invoke"
_PARAMETER = f"<{_DSML}parameter"
_PARAMETER_END = f"/{_DSML}parameter"
_NAME = re.compile(r'^\s*name="(.*?)">\n$', re.DOTALL)
_PARAMETER_PARTS = re.compile(r'^ name="(.*?)" string="(true|false)">(.*?)<$', re.DOTALL)


def parse_strict(marked: str, thinking_mode: ThinkingMode) -> AssistantDict:
    """The message of a whole reply with its end token, control tokens as marks; ChatError."""
    reader = _Reader(marked)
    reasoning = ""
    if thinking_mode == "thinking":
        reasoning = reader.until(_END_THINK, _BLOCK)
        _expect(reader.stop == _END_THINK, f"{END_THINK} after the reasoning", reader.rest())
    content = reader.until(_EOS, _BLOCK)
    _expect(reader.stop is not None, f"{EOS} at the end", "")
    calls: list[ToolCall] = []
    if reader.stop == _BLOCK:
        calls = _block(reader)
        after = reader.until(_EOS)
        _expect(not after, f"nothing between the tool calls and {EOS}", after)
    _expect(reader.at_end, f"nothing after {EOS}", reader.rest())
    for token in MARKED:
        _expect(mark(token) not in content + reasoning, f"no {token} in its text", token)
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
        _expect(reader.stop is not None, spelled_out(f"{_INVOKE} or {_BLOCK_END}"), "")
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
    return ToolCall(spelled_out(name[1]), write_arguments(arguments))


def _parameter(text: str) -> tuple[str, str]:
    """The name of a parameter and its value as JSON text; what is no string is not looked at."""
    match = _PARAMETER_PARTS.search(text)
    if match is None:
        raise _refusal('name="..." string="true|false" and a value after parameter', text)
    key, is_string, value = map(spelled_out, match.groups())
    return key, to_json(value) if is_string == "true" else value


def write_arguments(arguments: dict[str, str]) -> str:
    """A JSON object from names and values that are JSON text already."""
    return "{" + ", ".join(f"{to_json(key)}: {value}" for key, value in arguments.items()) + "}"


def _expect(is_met: bool, expected: str, found: str) -> None:
    if not is_met:
        raise _refusal(expected, found)


def _refusal(expected: str, found: str) -> ChatError:
    shown = repr(spelled_out(found)[:60]) if found else "nothing"
    return ChatError(f"The reply should have {expected}, found {shown}; parse it without strict.")
