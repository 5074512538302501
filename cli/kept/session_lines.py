"""The lines of a session file: JSON objects that show by themselves whether they are whole.

    {"n": 3, "type": "turn", "keep": 0, ..., "at": "2025-11-24T21:50:12.843Z", "crc": "1a2b3c4d"}

`n` counts the lines from 1 on, so a line that is missing, doubled or moved is noticed; `crc` is the
CRC-32 of all bytes before `, "crc"`, so a changed one is; `at` is when the line was written, which
older versions leave out. Line ends may be CRLF. The file is data only: whatever it holds, reading
it gives values or LineError.
"""

import codecs
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO

from cli.safe import json_line
from dsv4_mlx.files.documents import DocumentError, parse_object

MOST_LINE_BYTES = 64 << 20
"""A turn that fills a context of a million tokens has about a fifth of it."""
MOST_BYTES = 512 << 20

_HEAD = re.compile(rb'\{"n": ([0-9]{1,9}), "type": "([a-z_]{1,32})"(?:, "keep": ([0-9]{1,9})[,}])?')
_TAIL = re.compile(rb', "crc": "([0-9a-f]{8})"\}')
_AT = re.compile(rb', "at": "([0-9]{4}-[0-9T:.-]{12,20}Z)"(?:\Z|, "crc": "[0-9a-f]{8}"\}\r?\n)')
_AT_BYTES = 64
_HALF_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\ud[89a-f][0-9a-f]{2}")
_TAIL_BYTES = len(', "crc": "00000000"}')


class LineError(ValueError):
    """A line that is not what this program wrote there; says why, for the middle of a sentence."""


@dataclass(frozen=True)
class Line:
    """A whole line. Its fields are parsed when they are asked for."""

    number: int
    kind: str
    keep: int | None
    """How many earlier turns stay, on the lines that say so."""
    at: datetime | None
    """When it was written."""
    _content: bytes = field(repr=False)

    def fields(self) -> dict[str, Any]:
        """Everything the line says; LineError for what is no JSON."""
        try:
            return parse_object(self._content)
        except DocumentError as error:
            raise LineError("is no JSON that this program writes") from error


def write_line(number: int, kind: str, fields: dict[str, Any], at: datetime) -> bytes:
    """One line with its end. A `keep` has to come first among `fields`."""
    text = json_line({"n": number, "type": kind, **fields, "at": spelled(at)}).rstrip("\n")
    if "\\ud" in text:
        # What no UTF-8 can hold was escaped, and would be refused when the line is read.
        text = _HALF_PAIR.sub("\\1\N{REPLACEMENT CHARACTER}", text)
    content = text[:-1].encode()
    return content + f', "crc": "{zlib.crc32(content):08x}"}}\n'.encode()


def read_line(raw: bytes, number: int) -> Line:
    """The line `raw`, which stands in place `number`, without its end."""
    raw = raw.removesuffix(b"\r")
    if number == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
    summed, tail = raw[:-_TAIL_BYTES], _TAIL.fullmatch(raw[-_TAIL_BYTES:])
    content = summed + b"}"
    head = _HEAD.match(content)
    if head is None or tail is None or int(tail[1], 16) != zlib.crc32(summed):
        raise LineError("is damaged")
    if int(head[1]) != number:
        raise LineError("is missing or stands twice")
    keep = None if head[3] is None else int(head[3])
    return Line(number, head[2].decode(), keep, last_time(summed[-_AT_BYTES:]), content)


def spelled(time: datetime) -> str:
    """A time as lines have it, to the millisecond."""
    text = time.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def last_time(content: bytes) -> datetime | None:
    """The time of the last line in `content` that tells one; a line may lack its checksum."""
    for found in reversed(_AT.findall(content)):
        try:
            return datetime.fromisoformat(found.decode())
        except ValueError:
            continue
    return None


def raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """The finished lines of a file without their ends; what follows the last end is left out."""
    read = 0
    while (raw := file.readline(MOST_LINE_BYTES + 1)).endswith(b"\n"):
        read += len(raw)
        if read > MOST_BYTES:
            raise LineError(f"lies beyond the {MOST_BYTES:,} bytes that are read")
        yield raw[:-1]
    if len(raw) > MOST_LINE_BYTES:
        raise LineError(f"has more than {MOST_LINE_BYTES:,} bytes")
