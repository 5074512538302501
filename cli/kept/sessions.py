"""All sessions of one person: a folder with a log per session, and cache files that save time.

    20251124-215012-843-k3f9tq.jsonl    the session, see session_replay
    20251124-215012-843-k3f9tq.kv       the model's cache after it; may go at any time

A cache file that is missing, damaged or of another model costs a prefill and nothing else.
"""

import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakSet

from cli.kept.disk_budget import remove_abandoned, shrink
from cli.kept.session_file import SessionFile
from cli.kept.session_log import SUFFIX, Clock, SessionLog, utc_now
from cli.kept.session_replay import Replay, SessionError
from cli.kept.session_summary import Summary, check_name, find, has_name, summarise, with_cache
from cli.kept.session_times import last_record
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.file_systems import FileSystem

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

    def __init__(
        self,
        root: Path,
        *,
        kv_budget_bytes: int,
        files: FileSystem | None = None,
        clock: Clock = utc_now,
    ) -> None:
        """`files` tells what the disk lacks, and what became of files that were open."""
        self.files = files or FileSystem()
        self._root = root
        self._kv_budget_bytes = kv_budget_bytes
        self._clock = clock
        self._logs: WeakSet[SessionLog] = WeakSet()
        self._known: dict[Path, tuple[tuple[int, int], Summary]] = {}

    @property
    def keeps_caches(self) -> bool:
        """Whether cache files are written at all."""
        return self._kv_budget_bytes > 0

    def create(
        self, model: str, *, name: str | None = None, parent: str | None = None
    ) -> SessionLog:
        """A new session; it appears on the disk with its first message."""
        log = self._log(self._new_id())
        log.begin(model, parent)
        if name is not None:
            log.rename(name)
        return log

    def open(self, summary: Summary) -> tuple[SessionLog, Saved]:
        """Go on with a session.

        SessionError when another program has it open, or it is no session at all; any other damage
        is told in `notes`, and what stood before it is there.
        """
        log = self._log(summary.id)
        self._require_closed(log.path)
        session = log.resume()
        turns = tuple(turn for turn in session.turns if turn is not None)
        notes = tuple(_notes(log.path, session))
        return log, Saved(
            turns, session.settings, session.name, session.unanswered, session.model, notes
        )

    def path(self, summary: Summary) -> Path:
        """The file of a session."""
        return self._root / f"{summary.id}{SUFFIX}"

    def delete(self, summary: Summary) -> None:
        """Remove a session that no program has open, with its cache file."""
        log = self._log(summary.id)
        self._require_closed(log.path)
        file = SessionFile.open(log.path, self.files)
        try:
            log.kv_path.unlink(missing_ok=True)
            log.path.unlink()
        finally:
            file.close()

    def summaries(self) -> list[Summary]:
        """All sessions, the one that changed last first."""
        found = list(self._each())
        return sorted(found, key=lambda summary: (summary.changed, summary.id), reverse=True)

    def newest(self) -> Summary:
        """What `--continue` goes on with: the session that changed last and can be read."""
        newest_first = sorted(((last_record(path), path) for path in self._paths()), reverse=True)
        for _, path in newest_first:
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
        """Remove the cache files of the sessions that changed longest ago until the rest fits the
        budget; never the one of `keep`, or of another session that is open."""
        remove_abandoned(self._root.glob(".*.safetensors"))

        def in_use(path: Path) -> bool:
            kept = keep is not None and path == keep.kv_path
            return kept or self._is_open(path.with_suffix(SUFFIX))

        def changed(path: Path) -> datetime:
            return last_record(path.with_suffix(SUFFIX))

        shrink(self._root.glob("*.kv"), self._kv_budget_bytes, in_use, changed)

    # Inside

    def _log(self, id: str) -> SessionLog:
        log = SessionLog(
            self._path(id),
            files=self.files,
            check_name=self._free_name,
            new_path=lambda: self._path(self._new_id()),
            clock=self._clock,
        )
        self._logs.add(log)
        return log

    def _new_id(self) -> str:
        """An id that sorts by time, with letters that nobody confuses."""
        now = self._clock().astimezone(UTC)
        letters = "".join(secrets.choice(_LETTERS) for _ in range(6))
        return f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{letters}"

    def _path(self, id: str) -> Path:
        return self._root / f"{id}{SUFFIX}"

    def _require_closed(self, path: Path) -> None:
        """What a lock is for, where there are none: SessionError for a session of this program."""
        if any(log.is_open and log.path == path for log in self._logs):
            raise SessionError(
                f"session {path.stem} is open, here or in another program; leave it there first."
            )

    def _is_open(self, path: Path) -> bool:
        """Whether some program, this one as well, has the session at `path` open."""
        try:
            self._require_closed(path)
            SessionFile.open(path, self.files).close()
        except SessionError:
            return True
        except OSError:
            return False
        return False

    def _free_name(self, name: str, id: str) -> str:
        """`name` as it is kept; UsageError when it cannot be one or another session has it."""
        checked = check_name(name)
        if any(has_name(summary, checked) and summary.id != id for summary in self._each()):
            raise UsageError(f"another session is called {checked!r}; choose another name.")
        return checked

    def _paths(self) -> list[Path]:
        try:
            with os.scandir(self._root) as entries:
                names = [entry.name for entry in entries if entry.is_file()]
        except OSError:  # nothing was kept yet, or it cannot be reached now
            return []
        ids = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
        return [self._path(id) for id in ids if _ID.fullmatch(id)]

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
