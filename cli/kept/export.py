"""A conversation as a file to read or to pass on: Markdown, JSON or HTML by the name's ending.

JSON is `{"messages": [...]}` with OpenAI-style dictionaries, exactly what the conversation holds.
Markdown and HTML are for people: control characters are made harmless, tool calls and their results
are shown as code, reasoning goes into a block that is folded, or is left out.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from cli.kept.export_markdown import as_markdown
from cli.kept.message_text import MessageRecord
from cli.kept.private_files import write_whole
from cli.safe import harmless, json_line
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.file_systems import FileSystem


def write(
    path: Path,
    messages: Sequence[MessageRecord],
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


def writer_for(path: Path) -> Callable[[Sequence[MessageRecord], str], str]:
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


def as_json(messages: Sequence[MessageRecord], title: str = "") -> str:
    """`{"messages": [...]}`, a message per line; the title has no place in it."""
    lines = [json_line(dict(message)).rstrip("\n") for message in messages]
    return '{"messages": [\n' + ",\n".join(lines) + "\n]}\n"


def _without_reasoning(message: MessageRecord) -> MessageRecord:
    return {key: value for key, value in message.items() if key != "reasoning_content"}
