"""Files that a message names with @: read, checked, and put before the message.

The files come first and what was typed last, in the release's own file template, so that messages
about the same files share a prefix of tokens.
"""

import glob
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.safe import harmless
from cli.screen.status import byte_count
from dsv4_mlx.errors import UsageError

LARGEST = 4 << 20
"""Bytes that one message may attach: about a million tokens, the longest context there is."""
MOST = 200
"""Files that one message may attach."""

_MENTION = re.compile(r'(?<!\S)@(?:"(?P<quoted>[^"\n]+)"|(?P<bare>[^\s"@][^\s"]*))')
_ESCAPED = re.compile(r"(?<!\S)\\@")
_PUNCTUATION = ".,;:!?)]}'"
_GLOB = re.compile(r"[*?\[]")


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


def expand(text: str, folder: Path, count: Callable[[str], int]) -> Expanded:
    r"""`text` with the files it names before it; `count` counts tokens.

    `@path`, `@"a path with spaces"` and `@src/*.py` attach; a backslash keeps an `\@` as text.
    Raises UsageError, one sentence, for a file that cannot go along.
    """
    blocks: list[str] = []
    attached: list[Attached] = []
    for name, file in _named(text, folder):
        content = _content(file, name, LARGEST - sum(one.bytes for one in attached))
        block = f"[file name]: {name}\n[file content begin]\n{content}\n[file content end]\n"
        blocks.append(block)
        attached.append(Attached(name, len(content.encode()), count(block)))
    shared = "".join(blocks)
    typed = _ESCAPED.sub("@", text)
    return Expanded(shared + typed, shared, tuple(attached))


def escaped(text: str) -> str:
    """`text` as it is typed for `expand` to give it back: what was a file's content names none."""
    return re.sub(r"(?<!\S)@", r"\\@", text)


def _named(text: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file that `text` names, once, with the name to show for it."""
    found: dict[Path, str] = {}
    for mention in _MENTION.finditer(text):
        quoted = mention["quoted"]
        for path in _matching(quoted or mention["bare"], folder, bare=quoted is None):
            found.setdefault(Path(os.path.abspath(folder / _expanded(str(path)))), _safe(str(path)))
    if len(found) > MOST:
        raise UsageError(
            f"the message names {len(found):,} files and may name {MOST}; choose fewer with @."
        )
    for file, name in found.items():
        yield name, file


def _matching(name: str, folder: Path, *, bare: bool) -> list[Path]:
    """The files behind one @; a glob gives its files in order, without folders."""
    spellings = [name]
    if bare and name.rstrip(_PUNCTUATION) not in ("", name):
        spellings.append(name.rstrip(_PUNCTUATION))  # the end of a sentence, not of a name
    for spelling in spellings:
        path = _expanded(spelling)
        if os.path.lexists(folder / path):
            return [Path(spelling)]
        if _GLOB.search(spelling):
            matches = glob.glob(str(path), root_dir=folder, recursive=True)
            files = sorted(match for match in matches if (folder / match).is_file())
            if files:
                return [Path(match) for match in files]
    kind = "files match" if _GLOB.search(name) else "file is called"
    raise UsageError(
        f"no {kind} {_safe(spellings[-1])} in {_safe(str(folder))}; "
        "put a backslash before the @ to send it as text."
    )


def _expanded(spelling: str) -> Path:
    try:
        return Path(spelling).expanduser()
    except RuntimeError:  # ~somebody who does not exist
        return Path(spelling)


def _content(file: Path, name: str, room: int) -> str:
    """The text of one file. UsageError when it is none, or too large for what is left."""
    try:
        facts = file.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise UsageError(f"{name} is a folder; attach its files, for example @{name}/*.")
        if not stat.S_ISREG(facts.st_mode):
            raise UsageError(f"{name} is not a regular file and cannot be attached.")
        if facts.st_size > room:
            raise UsageError(
                f"{name} has {facts.st_size:,} bytes and one message may attach {LARGEST:,}; "
                "attach a part of it."
            )
        with file.open("rb") as stream:
            data = stream.read(room + 1)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{name} cannot be read: {error}.") from error
    return _decoded(data, name)


def _decoded(data: bytes, name: str) -> str:
    if b"\0" in data:
        raise UsageError(f"{name} is a binary file; only text can be attached.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is not UTF-8 text (byte {error.start}); convert it first, "
            "for example with iconv."
        ) from error
    return text.replace("\r\n", "\n").removesuffix("\n")


def _safe(name: str) -> str:
    """A file name on one line, without control characters."""
    return harmless(name).replace("\n", "␊").replace("\t", "␉")
