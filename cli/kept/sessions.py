"""All sessions of one person: a folder with a log per session, and cache files that save time.

    20251124-215012-843-k3f9tq.jsonl    the session, see session_replay
    20251124-215012-843-k3f9tq.kv       the model's cache after it; may go at any time

A cache file that is missing, damaged or of another model costs a prefill and nothing else.
"""

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cli.kept.disk_budget import remove_abandoned, shrink, touch
from cli.kept.session_log import SUFFIX, SessionLog, is_open_elsewhere, open_exclusive
from cli.kept.session_replay import Replay
from cli.kept.session_summary import Summary, check_name, find, has_name, summarise, with_cache
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import UsageError

_ID = re.compile(r"[0-9a-z-]{1,64}")
_LETTERS = "abcdefghjkmnpqrstvwxyz23456789"


@dataclass(frozen=True)
class Saved:
    """What a session holds when it is opened."""

    turns: tuple[Turn, ...]
    settings: dict[str, Any]
    name: str | None
    unanswered: str | None
    """A message whose answer was not finished when the program ended."""
    model: str = ""
    notes: tuple[str, ...] = ()
    """What the person should know: damage, lines of a newer version."""


class SessionStore:
    """The sessions in the folder `root`, with at most `kv_budget_bytes` of cache files."""

    def __init__(self, root: Path, *, kv_budget_bytes: int) -> None:
        self._root = root
        self._kv_budget_bytes = kv_budget_bytes
        self._known: dict[Path, tuple[tuple[int, int], Summary]] = {}

    @property
    def keeps_caches(self) -> bool:
        """Whether cache files are written at all."""
        return self._kv_budget_bytes > 0

    def create(
        self, model: str, *, name: str | None = None, parent: str | None = None
    ) -> SessionLog:
        """A new session; it appears on the disk with its first message."""
        log = self._log(new_id())
        log.begin(model, parent)
        if name is not None:
            log.rename(name)
        return log

    def open(self, summary: Summary) -> tuple[SessionLog, Saved]:
        """Go on with a session, whose cache file counts as used.

        SessionError when another program has it open, or it is no session at all; any other damage
        is told in `notes`, and what stood before it is there.
        """
        log = self._log(summary.id)
        session = log.resume()
        touch(log.kv_path)
        turns = tuple(turn for turn in session.turns if turn is not None)
        notes = tuple(_notes(log.path, session))
        return log, Saved(
            turns, session.settings, session.name, session.unanswered, session.model, notes
        )

    def delete(self, summary: Summary) -> None:
        """Remove a session that no program has open, with its cache file."""
        log = self._log(summary.id)
        with open_exclusive(log.path):
            log.kv_path.unlink(missing_ok=True)
            log.path.unlink()

    def summaries(self) -> list[Summary]:
        """All sessions, the one that changed last first."""
        found = list(self._each())
        return sorted(found, key=lambda summary: (summary.changed, summary.id), reverse=True)

    def newest(self) -> Summary:
        """What `--continue` goes on with: the session that changed last and can be read."""
        for path in sorted(self._paths(), key=_changed_ns, reverse=True):
            summary = summarise(path)
            if summary is not None and summary.problem is None:
                return summary
        raise UsageError("there is no session to continue; start one without --continue.")

    def find(self, name_or_id: str) -> Summary:
        """The session with this name, this id, or an id that begins so; the newest for "".

        Raises UsageError with names that are near, or with the ids that begin so.
        """
        return find(self.summaries(), name_or_id) if name_or_id.strip() else self.newest()

    def evict(self, keep: SessionLog | None = None) -> None:
        """Remove the cache files that were not used for longest until the rest fits the budget;
        never the one of `keep`, or of another session that is open."""
        remove_abandoned(self._root.glob(".*.safetensors"))

        def in_use(path: Path) -> bool:
            kept = keep is not None and path == keep.kv_path
            return kept or is_open_elsewhere(path.with_suffix(SUFFIX))

        shrink(self._root.glob("*.kv"), self._kv_budget_bytes, in_use)

    # Inside

    def _log(self, id: str) -> SessionLog:
        return SessionLog(
            self._root / f"{id}{SUFFIX}", check_name=lambda name: self._free_name(name, id)
        )

    def _free_name(self, name: str, id: str) -> str:
        """`name` as it is kept; UsageError when it cannot be one or another session has it."""
        checked = check_name(name)
        if any(has_name(summary, checked) and summary.id != id for summary in self._each()):
            raise UsageError(f"another session is called {checked!r}; choose another name.")
        return checked

    def _paths(self) -> list[Path]:
        files = self._root.glob(f"*{SUFFIX}")
        return [path for path in files if _ID.fullmatch(path.stem) and path.is_file()]

    def _each(self) -> Iterator[Summary]:
        """Summaries in no order; only files that changed since the last time are read."""
        for path in self._paths():
            state = _state(path)
            known = self._known.get(path)
            if known is None or known[0] != state:
                summary = summarise(path)
                if state is None or summary is None:
                    continue
                known = self._known[path] = state, summary
            yield with_cache(known[1], path)


def new_id() -> str:
    """An id that sorts by time, with letters that nobody confuses."""
    now = datetime.now(UTC)
    letters = "".join(secrets.choice(_LETTERS) for _ in range(6))
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{letters}"


def _notes(path: Path, session: Replay) -> Iterator[str]:
    if session.damage:
        yield (
            f"{path}: {session.damage}; all before it is here, and the file as it is will be "
            f"kept beside as {path.name}.damaged."
        )
    if session.newer:
        yield (
            f"{path} has lines of a newer version ({', '.join(session.newer)}); they stay in the "
            "file and are not used."
        )


def _state(path: Path) -> tuple[int, int] | None:
    """When a file changed and its size; None when it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _changed_ns(path: Path) -> int:
    return (_state(path) or (0, 0))[0]
