"""Files that a message names with @: read, checked, and put before the message.

The files come first and what was typed last, in the release's own file template, so that messages
about the same files share a prefix of tokens.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.mentions import Named, Names, escaped, listed, unescaped
from cli.patterns import Walk
from cli.show.screen.paste import sendable
from cli.show.screen.status import byte_count
from cli.texts import decoded
from dsv4_mlx.errors import UsageError

__all__ = ["Attached", "Expanded", "escaped", "expand"]

LARGEST = 4 << 20
"""Bytes that one message may attach: about a million tokens, the longest context there is."""

MOST = 200
"""Files that one message may attach."""
_PIECE = 1 << 18
# Nothing waits for the other end of a pipe, and no terminal becomes ours.
_CALM = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True)
class Attached:
    """One file that goes along."""

    path: str
    """As the message names it, safe to show."""
    bytes: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.path} ({byte_count(self.bytes)}, {self.tokens:,} tokens)"


@dataclass(frozen=True)
class Expanded:
    """A message with its files."""

    text: str
    shared: str
    """The leading part of `text` that holds the files; "" without any."""
    attached: tuple[Attached, ...]
    notes: tuple[str, ...] = ()
    """What to tell about it: words that stay text, files that are left out."""


class _NoText(UsageError):
    """A file that holds no text, or cannot be read."""


def expand(
    text: str,
    folder: Path,
    count: Callable[[str], int],
    *,
    files: Sequence[str] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Expanded:
    r"""`text` with the files it names before it; `count` counts tokens.

    `@path`, `@"a path with spaces"` and `@src/*.py` attach; a backslash keeps an `\@` as text, and
    a word that names no file is text as well. `files` are attached as if `text` began with them,
    and have to be there. Raises UsageError, one sentence, for a file that cannot go along, and
    KeyboardInterrupt as soon as `stopped` says so.
    """
    names = Names(folder, Walk(stopped))
    for file in files:
        names.require(file)
    names.read(text)
    if len(names.files) > MOST:
        raise UsageError(
            f"the message names {len(names.files):,} files and may name {MOST:,}; "
            "choose fewer with @."
        )
    reading = _Reading(stopped)
    blocks: list[str] = []
    attached: list[Attached] = []
    for named, content in reading.contents(names.files):
        block = f"[file name]: {named.name}\n[file content begin]\n{content}\n[file content end]\n"
        blocks.append(block)
        attached.append(Attached(named.name, len(content.encode()), count(block)))
    shared = "".join(blocks)
    typed = " ".join([*(f"@{file}" for file in files), *([unescaped(text)] if text else [])])
    notes = (*names.notes(), *reading.notes())
    return Expanded(shared + sendable(typed), shared, tuple(attached), notes)


@dataclass
class _Reading:
    """The files of one message, read one after the other."""

    stopped: Callable[[], bool]
    left_out: list[str] = field(default_factory=list)
    """Files that a pattern found and that do not go along."""
    _read: int = 0

    def contents(self, files: Sequence[Named]) -> Iterator[tuple[Named, str]]:
        """Each file with its text. What a pattern found and is no text is left out, unless there
        is nothing else."""
        refusals: list[UsageError] = []
        for named in files:
            try:
                content = self._content(named)
            except _NoText as refusal:
                if not named.is_matched:
                    raise
                refusals.append(refusal)
                self.left_out.append(named.name)
                continue
            yield named, content
        if refusals and len(refusals) == len(files):
            raise refusals[0]

    def notes(self) -> list[str]:
        """What is to be told of the files that are left out."""
        if not self.left_out:
            return []
        return [f"left out, since no text or unreadable: {listed(self.left_out)}"]

    def _content(self, named: Named) -> str:
        try:
            data = self._bytes(named.path, named.name)
        except OSError as error:
            raise _NoText(f"{named.name} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise _NoText(f"{named.name} cannot be read: {error}.") from error
        text = _decoded(data, named.name)
        self._read += len(text.encode())
        return text

    def _bytes(self, path: Path, name: str) -> bytes:
        room = LARGEST - self._read
        # Looked at before it is opened, since opening a device may already do something, and again
        # afterwards, since another file may have come into its place.
        _check(os.stat(path), name, room)
        descriptor = os.open(path, _CALM)
        try:
            _check(os.fstat(descriptor), name, room)
            data = bytearray()
            while len(data) <= room and (piece := os.read(descriptor, _PIECE)):
                data += piece
                if self.stopped():
                    raise KeyboardInterrupt
        finally:
            os.close(descriptor)
        if len(data) > room:
            raise _too_large(name, len(data), room)
        return bytes(data)


def _check(facts: os.stat_result, name: str, room: int) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise UsageError(f"{name} is a folder; attach its files, for example @{name}/*.")
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{name} is not a regular file and cannot be attached.")
    if facts.st_size > room:
        raise _too_large(name, facts.st_size, room)


def _too_large(name: str, size: int, room: int) -> UsageError:
    """`room` is what the files before it left."""
    if room < LARGEST and size <= LARGEST:
        return UsageError(
            f"the files up to {name} have {LARGEST - room + size:,} bytes and one message may "
            f"attach {LARGEST:,}; attach fewer."
        )
    return UsageError(
        f"{name} has {size:,} bytes and one message may attach {LARGEST:,}; attach a part of it."
    )


def _decoded(data: bytes, name: str) -> str:
    if b"\0" in data:
        raise _NoText(f"{name} is a binary file; only text can be attached.")
    try:
        text = decoded(data)
    except UnicodeDecodeError as error:
        raise _NoText(
            f"{name} is not UTF-8 text (byte {error.start}); convert it first, "
            "for example with iconv."
        ) from error
    return text.removesuffix("\n")
