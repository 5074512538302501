"""Files that a pattern such as `src/**/*.py` matches, found by one walk that stays bounded.

Every folder is read once, however many ways of the pattern lead into it. The part of a pattern
before its first wildcard is a path like any other; from there on links to folders are not followed,
so the walk has an end whatever links there are, and what it may look at is counted.
"""

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dsv4_mlx.errors import UsageError

MOST_NAMES = 100_000
"""Names of files and folders that the patterns of one message may look at."""

_WILDCARD = re.compile(r"[*?\[]")
_ANY_FOLDERS = "**"


def is_pattern(spelling: str) -> bool:
    """Whether `spelling` has a wildcard."""
    return bool(_WILDCARD.search(spelling))


@dataclass
class Walk:
    """What the walks of one message share. `stopped` is asked at every step."""

    stopped: Callable[[], bool] = lambda: False
    names: int = 0
    """How many were looked at."""
    unreadable: list[str] = field(default_factory=list)
    """Folders that could not be looked into."""

    def check(self) -> None:
        """KeyboardInterrupt once somebody asked for the end."""
        if self.stopped():
            raise KeyboardInterrupt

    def look(self, pattern: str) -> None:
        """One more name; UsageError where that is too many."""
        self.names += 1
        if self.names > MOST_NAMES:
            raise UsageError(
                f"@{pattern} looks at more than {MOST_NAMES:,} names; begin the pattern with the "
                "folder that the files are in."
            )
        if not self.names % 256:
            self.check()


def matching(pattern: str, root: str, walk: Walk) -> list[tuple[str, str]]:
    """Files, each as `pattern` begins to spell it and as a path, sorted; relative patterns begin
    in `root`.

    `*` and `?` match within a name, `[…]` one character, `**` any folders, and none of them a name
    that begins with a dot. Raises UsageError beyond MOST_NAMES, KeyboardInterrupt when stopped.
    """
    start, parts = _split(pattern)
    base = os.path.join(root, os.path.expanduser(start))
    found = sorted(_Search(pattern, base, parts, walk).run())
    return [(start + path, os.path.join(base, path)) for path in found]


def _split(pattern: str) -> tuple[str, tuple[str, ...]]:
    """The path before the first wildcard, and the parts from there on."""
    parts = [part for part in re.split(r"(?<=/)", pattern) if part]
    first = next(index for index, part in enumerate(parts) if is_pattern(part))
    rest = [part.strip("/") for part in parts[first:]]
    kept = [part for part in rest if part not in ("", ".")]
    if pattern.endswith(("/", "/.")):
        kept.append("")  # asks for folders, and none of them is a file
    folded = [
        part
        for index, part in enumerate(kept)
        if part != _ANY_FOLDERS or kept[index + 1 : index + 2] != [_ANY_FOLDERS]
    ]
    return "".join(parts[:first]), tuple(folded)


@dataclass(frozen=True)
class _Search:
    """One pattern. A state is how many of `parts` have matched; a folder is visited with the set of
    states that lead into it."""

    pattern: str
    base: str
    """The folder of the first wildcard; all paths below are relative to it."""
    parts: tuple[str, ...]
    walk: Walk

    def run(self) -> Iterator[str]:
        """The files."""
        waiting = [("", self._with_empty_matches({0}))]
        while waiting:
            prefix, states = waiting.pop()
            self.walk.check()
            for name, is_folder in self._entries(prefix, states):
                reached = self._step(name, states)
                if is_folder:
                    further = {state for state in reached if state < len(self.parts)}
                    if further:
                        inside = self._with_empty_matches(further)
                        waiting.append((f"{prefix}{name}/", inside))
                elif self._is_end(name, states, reached) and self._is_file(prefix + name):
                    yield prefix + name

    def _with_empty_matches(self, states: set[int]) -> frozenset[int]:
        """With the states after a `**` that matches no folder."""
        found = set(states)
        for state in sorted(states):
            while state < len(self.parts) and self.parts[state] == _ANY_FOLDERS:
                state += 1
                found.add(state)
        return frozenset(state for state in found if state < len(self.parts))

    def _step(self, name: str, states: frozenset[int]) -> set[int]:
        """The states after `name`."""
        reached = set()
        for state in states:
            part = self.parts[state]
            if part == _ANY_FOLDERS:
                if not name.startswith("."):
                    reached.add(state)
            elif _fits(name, part):
                reached.add(state + 1)
        return reached

    def _is_end(self, name: str, states: frozenset[int], reached: set[int]) -> bool:
        last = len(self.parts) - 1
        trailing = last in states and self.parts[last] == _ANY_FOLDERS
        return len(self.parts) in reached or (trailing and not name.startswith("."))

    def _entries(self, prefix: str, states: frozenset[int]) -> Iterator[tuple[str, bool]]:
        """Names in a folder, each with whether it is a folder and no link to one."""
        exact = [self.parts[state] for state in states]
        if not any(is_pattern(part) for part in exact):
            yield from self._named_entries(prefix, exact)
            return
        try:
            with os.scandir(self._place(prefix)) as found:
                for entry in found:
                    self.walk.look(self.pattern)
                    yield entry.name, _is_folder(entry)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return
        except OSError as error:
            if prefix or error.errno != errno.ENAMETOOLONG:
                self.walk.unreadable.append(self._place(prefix))

    def _named_entries(self, prefix: str, names: list[str]) -> Iterator[tuple[str, bool]]:
        """Entries with known names, which need no list of the folder."""
        for name in names:
            self.walk.look(self.pattern)
            try:
                mode = os.lstat(self._place(prefix + name)).st_mode
            except (OSError, ValueError):
                continue
            yield name, stat.S_ISDIR(mode)

    def _is_file(self, path: str) -> bool:
        try:
            return stat.S_ISREG(os.stat(self._place(path)).st_mode)
        except (OSError, ValueError):
            return False

    def _place(self, path: str) -> str:
        return os.path.join(self.base, path)


def _fits(name: str, part: str) -> bool:
    if not is_pattern(part):
        return name == part
    if name.startswith(".") and not part.startswith("."):
        return False
    return fnmatch.fnmatchcase(name, part)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False
