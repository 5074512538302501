"""A conversation as Markdown, for people to read."""

import re
from collections.abc import Iterator, Sequence

from cli.kept.message_text import MessageRecord, calls_of, one_line, reasoning_of, speaker, text_of

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


def as_markdown(messages: Sequence[MessageRecord], title: str) -> str:
    """A heading per message; reasoning in a `<details>` block."""
    parts = [f"# {one_line(title)}"]
    for message in messages:
        parts += [f"## {speaker(message)}", *_markdown_parts(message)]
    return "\n\n".join(parts) + "\n"


def _markdown_parts(message: MessageRecord) -> Iterator[str]:
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
