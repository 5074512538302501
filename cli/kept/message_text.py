"""What a message says, as plain text for any format: speaker, text, reasoning and tool calls."""

from collections.abc import Iterator, Mapping
from typing import Any

from cli.safe import harmless

MessageRecord = Mapping[str, Any]

_SPEAKERS = {"system": "System", "user": "You", "assistant": "Answer", "tool": "Tool result"}


def speaker(message: MessageRecord) -> str:
    """The name of who says the message, for a heading."""
    role = str(message.get("role", ""))
    return _SPEAKERS.get(role, one_line(role) or "Unknown")


def text_of(message: MessageRecord) -> str:
    """The text of a message, harmless to show; parts of a list follow each other."""
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text", "") for part in content if isinstance(part, Mapping)]
        content = "\n\n".join(text for text in texts if isinstance(text, str))
    return harmless(content) if isinstance(content, str) else ""


def reasoning_of(message: MessageRecord) -> str:
    """The reasoning of an answer, harmless to show."""
    reasoning = message.get("reasoning_content")
    return harmless(reasoning).strip() if isinstance(reasoning, str) else ""


def calls_of(message: MessageRecord) -> Iterator[tuple[str, str]]:
    """Name and arguments of each tool call, harmless to show."""
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        yield one_line(str(function.get("name", ""))), harmless(str(function.get("arguments", "")))


def one_line(text: str) -> str:
    """`text` harmless to show, with every run of white space as one space."""
    return " ".join(harmless(text).split())
