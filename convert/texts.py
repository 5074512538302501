"""Texts for calibration and comparison as token ids, one timeline each.

A byte order mark is dropped and CRLF is a newline, as in what a chat is given. A file is one text,
or with the ending .jsonl one conversation per line: {"messages": [...]} as the official encoder
takes them, and perhaps "thinking_mode". Each begins with BOS, as in training.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.errors import PromptError, UsageError
from dsv4_mlx.files.documents import parse_object


@dataclass(frozen=True)
class Text:
    """One file: its name, 64 hexadecimal digits over its bytes, its timelines."""

    name: str
    sha256: str
    timelines: tuple[list[int], ...]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.timelines))


def read_text(path: Path, tokenizer: Tokenizer) -> Text:
    """UsageError when it is no UTF-8, holds no conversation where it should, or is too short."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 text; give another file.") from error
    if path.suffix.lower() == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        timelines = [_conversation(path, number, line, tokenizer) for number, line in lines]
    else:
        timelines = [[tokenizer.bos_id, *tokenizer.encode(text)]]
    timelines = [one for one in timelines if len(one) > 2]
    if not timelines:
        raise UsageError(f"{path} has fewer tokens than expected, 2 or more; give a longer text.")
    return Text(path.name, hashlib.sha256(content).hexdigest(), tuple(timelines))


def _conversation(path: Path, number: int, line: str, tokenizer: Tokenizer) -> list[int]:
    try:
        entry = parse_object(line)
        mode = entry.get("thinking_mode", "chat")
        return tokenizer.encode(encode_messages(entry["messages"], thinking_mode=mode))
    except (ValueError, KeyError, TypeError, AttributeError, PromptError) as error:
        raise UsageError(
            f'Line {number} of {path} is no conversation, expected {{"messages": [...]}} as the '
            "official encoder takes it."
        ) from error
