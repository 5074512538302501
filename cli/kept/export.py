"""A conversation as a file to read or to pass on: Markdown, JSON or HTML by the name's ending.

JSON is `{"messages": [...]}` with OpenAI-style dictionaries, exactly what the conversation holds.
Markdown and HTML are for people: control characters are made harmless, tool calls and their results
are shown as code, reasoning goes into a block that is folded, or is left out.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.kept.private_files import write_whole
from cli.output import json_line
from cli.safe import harmless
from dsv4_mlx.errors import UsageError
from dsv4_mlx.file_systems import FileSystem

Message = Mapping[str, Any]

_SPEAKERS = {"system": "System", "user": "You", "assistant": "Answer", "tool": "Tool result"}
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


def write(
    path: Path,
    messages: Sequence[Message],
    *,
    title: str = "Conversation",
    reasoning: bool = True,
    overwrite: bool = False,
    files: FileSystem | None = None,
) -> None:
    """Write `messages` to `path`, whole or not at all; a new file with mode 0600.

    Raises UsageError for another ending than .md, .json or .html, and for a file that exists unless
    `overwrite`.
    """
    writer = writer_for(path)
    kept = messages if reasoning else [_without_reasoning(message) for message in messages]
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file in it.")
    text = writer(kept, title).encode("utf-8", "replace")
    write_whole(path, text, overwrite=overwrite, files=files)


def writer_for(path: Path) -> Callable[[Sequence[Message], str], str]:
    """What turns messages and a title into the text of `path`; UsageError, see `write`."""
    match path.suffix.lower():
        case ".json":
            return as_json
        case ".md":
            return as_markdown
        case ".html":
            from cli.kept.export_html import as_html  # markdown-it takes a moment to import

            return as_html
    raise UsageError(
        f"expected a file that ends in .md, .json or .html, found {harmless(path.name)!r}."
    )


def as_json(messages: Sequence[Message], title: str = "") -> str:
    """`{"messages": [...]}`, a message per line; the title has no place in it."""
    lines = [json_line(dict(message)).rstrip("\n") for message in messages]
    return '{"messages": [\n' + ",\n".join(lines) + "\n]}\n"


def as_markdown(messages: Sequence[Message], title: str) -> str:
    """A heading per message; reasoning in a `<details>` block."""
    parts = [f"# {_one_line(title)}"]
    for message in messages:
        parts += [f"## {speaker(message)}", *_markdown_parts(message)]
    return "\n\n".join(parts) + "\n"


def speaker(message: Message) -> str:
    """Who says it, for a heading."""
    role = str(message.get("role", ""))
    return _SPEAKERS.get(role, _one_line(role) or "Unknown")


def text_of(message: Message) -> str:
    """What a message says, harmless to show; parts of a list follow each other."""
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text", "") for part in content if isinstance(part, Mapping)]
        content = "\n\n".join(text for text in texts if isinstance(text, str))
    return harmless(content) if isinstance(content, str) else ""


def reasoning_of(message: Message) -> str:
    """The reasoning of an answer, harmless to show."""
    reasoning = message.get("reasoning_content")
    return harmless(reasoning).strip() if isinstance(reasoning, str) else ""


def calls_of(message: Message) -> Iterator[tuple[str, str]]:
    """Name and arguments of each tool call, harmless to show."""
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        yield _one_line(str(function.get("name", ""))), harmless(str(function.get("arguments", "")))


def _markdown_parts(message: Message) -> Iterator[str]:
    if thoughts := reasoning_of(message):
        # The block would end at a tag in the text.
        thoughts = _closed(thoughts.replace("</", "&lt;/"))
        yield f"<details>\n<summary>Reasoning</summary>\n\n{thoughts}\n\n</details>"
    if text := text_of(message).strip("\n"):
        yield fenced(text) if message.get("role") == "tool" else _closed(text)
    for name, arguments in calls_of(message):
        yield f"Calls `{name}`:\n\n{fenced(arguments, 'json')}"


def fenced(text: str, language: str = "") -> str:
    """`text` as a code block, with a fence longer than any inside."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _closed(text: str) -> str:
    """`text` with the fence closed that an interrupted answer left open: all that follows would
    become code."""
    opened = ""
    for line in text.split("\n"):
        fence = _FENCE.fullmatch(line)
        if fence is None:
            continue
        marks, rest = fence.groups()
        if not opened:
            opened = "" if marks[0] == "`" and "`" in rest else marks
        elif marks.startswith(opened) and not rest.strip():
            opened = ""
    return f"{text}\n{opened}" if opened else text


def _without_reasoning(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "reasoning_content"}


def _one_line(text: str) -> str:
    return " ".join(harmless(text).split())
