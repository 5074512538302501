r"""Words that begin with @: which files they name, and how an @ stays text.

`@path`, `@"a path with spaces"` and `@src/*.py` name files. A backslash before the @ keeps it as
text, and so does naming nothing at all.
"""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.patterns import Walk, is_pattern, matching
from cli.safe import harmless
from dsv4_mlx.errors import UsageError

_MENTION = re.compile(r'(?<!\S)@(?:"(?P<quoted>(?:[^"\\\n]|\\.)+)"|(?P<bare>[^\s"@]\S*))')
_ESCAPED = re.compile(r"(?<!\S)\\(\\*@)")
_AT = re.compile(r"(?<!\S)(\\*@)")
_BACKSLASHED = re.compile(r'\\(["\\])')
_PUNCTUATION = ".,;:!?)]}'\""
_SHOWN = 3


def escaped(text: str) -> str:
    """`text` as it is typed for `unescaped` to give it back, in which no word names a file."""
    return _AT.sub(r"\\\1", text)


def unescaped(text: str) -> str:
    r"""What is sent for `text`: an `\@` at the beginning of a word is an @."""
    return _ESCAPED.sub(r"\1", text)


@dataclass(frozen=True)
class Named:
    """One file that a message names."""

    path: Path
    name: str
    """As the message spells it, on one line and safe to show."""
    is_matched: bool
    """A pattern found it."""


@dataclass
class Names:
    """What the words of a message name, every real file once whatever it is called.

    Relative names begin in `folder`.
    """

    folder: Path
    walk: Walk
    files: list[Named] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """Words that name no file."""
    _seen: set[object] = field(default_factory=set)

    def read(self, text: str) -> None:
        """The words of `text`; one that names no file is `unknown`."""
        for mention in _MENTION.finditer(text):
            self.walk.check()
            if not self._add(_spellings(mention)):
                self.unknown.append(safe_name(mention[0]))

    def require(self, name: str) -> None:
        """The file `name`, or those that it matches. UsageError where there is none."""
        unquoted = name.strip('"')
        if not unquoted or not self._add([name, unquoted]):
            kind = "files match" if is_pattern(name) else "file is called"
            raise UsageError(
                f"no {kind} {safe_name(name)} in {safe_name(str(self.folder.absolute()))}."
            )

    def notes(self) -> list[str]:
        """What to tell before the message is sent."""
        notes = []
        if self.unknown:
            one = len(set(self.unknown)) == 1
            verb, goes = ("names", "goes") if one else ("name", "go")
            where = safe_name(str(self.folder.absolute()))
            notes.append(f"{listed(self.unknown)} {verb} no file in {where} and {goes} as text")
        if self.walk.unreadable:
            folders = [safe_name(folder) for folder in self.walk.unreadable]
            notes.append(f"not looked into, since unreadable: {listed(folders)}")
        return notes

    def _add(self, spellings: Sequence[str]) -> bool:
        """The files of the first spelling that names any."""
        for spelling in spellings:
            path = self.folder / os.path.expanduser(spelling)
            if _exists(path):
                self._take(path, spelling, is_matched=False)
                return True
            if is_pattern(spelling):
                found = matching(spelling, str(self.folder), self.walk)
                for shown, match in found:
                    self.walk.check()
                    self._take(Path(match), shown, is_matched=True)
                if found:
                    return True
        return False

    def _take(self, path: Path, name: str, *, is_matched: bool) -> None:
        identity = _identity(path)
        if identity not in self._seen:
            self._seen.add(identity)
            self.files.append(Named(path, safe_name(name), is_matched))


def _spellings(mention: "re.Match[str]") -> list[str]:
    """What a mention may mean, the likeliest first."""
    quoted, bare = mention["quoted"], mention["bare"]
    if quoted is not None:
        return [quoted, _BACKSLASHED.sub(r"\1", quoted)]
    ended = bare.rstrip(_PUNCTUATION)  # the end of a sentence, not of a name
    return [bare] if ended in ("", bare) else [bare, ended]


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (OSError, ValueError):
        return False
    return True


def _identity(path: Path) -> object:
    """The same for every name of the same file."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return os.path.abspath(path)
    if not facts.st_ino or stat.S_ISDIR(facts.st_mode):  # some file systems number nothing
        return os.path.realpath(path)
    return facts.st_dev, facts.st_ino


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    each = list(dict.fromkeys(names))
    more = len(each) - _SHOWN
    if more > 1:
        return f"{', '.join(each[:_SHOWN])} and {more:,} more"
    return ", ".join(each[:-1]) + f" and {each[-1]}" if len(each) > 1 else each[0]


def safe_name(name: str) -> str:
    """A file name on one line, without control characters."""
    return harmless(name).replace("\n", "␊").replace("\t", "␉")
