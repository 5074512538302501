"""One session's file while it is written: a line per fact, on the disk before the program goes on.

Lines are only ever added. What a kill left behind the last finished line is cut off with the next
write; damage before that is copied beside first, so nothing that was kept is lost by going on.
"""

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cli.kept.private_files import private_folder, sync_folder
from cli.kept.session_lines import MOST_BYTES, MOST_LINE_BYTES, write_line
from cli.kept.session_replay import FORMAT, VERSION, Replay, SessionError, replay
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import UsageError

SUFFIX = ".jsonl"
_PROBES = 5

Record = tuple[str, dict[str, Any]]


class SessionLog:
    """Writes one session, which no other program can open meanwhile.

    The file appears with the first message, so leaving at once leaves nothing behind.
    """

    def __init__(self, path: Path, *, check_name: Callable[[str], str] = str) -> None:
        """`check_name` gives the name as it is kept, or raises UsageError."""
        self.path = path
        self.name: str | None = None
        self._check_name = check_name
        self._file: BinaryIO | None = None
        self._waiting: list[Record] = []
        self._lines = self._end_byte = self._turns = 0
        self._settings: dict[str, Any] = {}
        self._damaged = False

    @property
    def id(self) -> str:
        """Names the session for good, and sorts by the time it began."""
        return self.path.name.removesuffix(SUFFIX)

    @property
    def kv_path(self) -> Path:
        """Where the cache of this session is kept; it only saves time."""
        return self.path.with_suffix(".kv")

    def begin_turn(self, text: str) -> None:
        """A message is sent: kept before the answer begins."""
        self._write("question", {"text": text})

    def add_turn(self, turn: Turn, *, keep: int | None = None) -> None:
        """A question and its answer. `keep` earlier turns stay, all unless told: an answer that
        replaces others is one line, so there is no moment at which neither is kept."""
        kept = self._turns if keep is None else self._within(keep)
        self._write("turn", {"keep": kept, "turn": turn.to_json()})
        self._turns = kept + 1

    def rewind(self, keep: int) -> None:
        """The first `keep` turns stay."""
        self._write("rewind", {"keep": self._within(keep)})
        self._turns = keep

    def settings(self, settings: dict[str, Any]) -> None:
        """What was set, as JSON values; keys that are not given stay as they are."""
        changed = {
            key: value
            for key, value in settings.items()
            if key not in self._settings or self._settings[key] != value
        }
        if changed:
            self._note("settings", {"settings": changed})
            self._settings |= changed

    def rename(self, name: str) -> None:
        """Call the session `name`. Raises UsageError for one that cannot be used."""
        checked = self._check_name(name)
        self._note("name", {"name": checked})
        self.name = checked

    def close(self) -> None:
        """Let other programs open the session."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "SessionLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Opening

    def begin(self, model: str, parent: str | None) -> None:
        """A new session; its first line waits for the first message."""
        fields = {"format": FORMAT, "version": VERSION, "model": model, "parent": parent}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._waiting.append(("session", {**fields, "created": now}))

    def resume(self) -> Replay:
        """Open the session that is there, read it, and go on behind its last good line."""
        file = open_exclusive(self.path)
        try:
            session = replay(file, self.path, whole=True)
        except BaseException:
            file.close()
            raise
        self._file, self.name = file, session.name
        self._lines, self._end_byte = session.lines, session.end_byte
        self._turns, self._settings = len(session.turns), dict(session.settings)
        self._damaged = bool(session.damage)
        return session

    # Writing

    def _within(self, keep: int) -> int:
        if not 0 <= keep <= self._turns:
            raise UsageError(f"expected 0 to {self._turns} turns to keep, found {keep}.")
        return keep

    def _note(self, kind: str, fields: dict[str, Any]) -> None:
        """A fact that alone makes no session: it waits until there is a message."""
        if self._waiting:
            self._waiting.append((kind, fields))
        else:
            self._write(kind, fields)

    def _write(self, kind: str, fields: dict[str, Any]) -> None:
        records = [*self._waiting, (kind, fields)]
        lines = [write_line(self._lines + 1 + i, *record) for i, record in enumerate(records)]
        self._check_sizes(lines)
        try:
            self._append(b"".join(lines))
        except OSError as error:
            raise SessionError(
                f"{self.path} cannot be written: {error.strerror}; what is said from here on is "
                "not kept until that changes."
            ) from error
        self._waiting = []
        self._lines += len(lines)
        self._end_byte += sum(map(len, lines))

    def _append(self, content: bytes) -> None:
        file = self._file = self._file or create_exclusive(self.path)
        if self._damaged:
            _keep_beside(self.path)
            self._damaged = False
        _append(file, self._end_byte, content)

    def _check_sizes(self, lines: list[bytes]) -> None:
        longest, total = max(map(len, lines)), self._end_byte + sum(map(len, lines))
        if longest > MOST_LINE_BYTES or total > MOST_BYTES:
            raise SessionError(
                f"{self.path} takes lines up to {MOST_LINE_BYTES:,} bytes and {MOST_BYTES:,} bytes "
                f"in all, and needed {longest:,} and {total:,}; this is not kept, begin a new "
                "session."
            )


def open_exclusive(path: Path) -> BinaryIO:
    """The session file `path` for reading and writing, locked against every other program."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise SessionError(f"expected a session file at {path}, found no regular file; move it.")
    file = _open(path, os.O_RDWR)
    try:
        _lock(file, path)
        if not os.fstat(file.fileno()).st_nlink:
            raise SessionError(f"session {path.stem} was just deleted by another program.")
        os.fchmod(file.fileno(), 0o600)
    except BaseException:
        file.close()
        raise
    return file


def create_exclusive(path: Path) -> BinaryIO:
    """A new session file of mode 0600, locked."""
    private_folder(path.parent)
    file = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    _lock(file, path)
    sync_folder(path.parent)
    return file


def is_open_elsewhere(path: Path) -> bool:
    """Whether some program, this one as well, has the session at `path` open."""
    try:
        open_exclusive(path).close()
    except SessionError:
        return True
    except OSError:
        return False
    return False


def _open(path: Path, flags: int) -> BinaryIO:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return open(descriptor, "r+b", closefd=True)


def _lock(file: BinaryIO, path: Path) -> None:
    for _ in range(_PROBES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # Perhaps only `is_open_elsewhere` of another program, which takes an instant.
            time.sleep(0.01)
    raise SessionError(
        f"session {path.stem} is open, here or in another program; leave it there first."
    )


def _append(file: BinaryIO, end_byte: int, content: bytes) -> None:
    """Write `content` at `end_byte`, cutting what lies behind; on the disk when this returns.

    After a failure, a full disk for example, the file ends where it did.
    """
    descriptor = file.fileno()
    os.ftruncate(descriptor, end_byte)
    try:
        view, place = memoryview(content), end_byte
        while view:
            written = os.pwrite(descriptor, view, place)
            view, place = view[written:], place + written
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end_byte)
        raise


def _keep_beside(path: Path) -> Path:
    """Copy a damaged file before it is cut, under a name that is still free."""
    names = (f"{path.name}.damaged{number}" for number in ["", *(f"-{n}" for n in range(2, 1000))])
    copy = next(place for name in names if not (place := path.with_name(name)).exists())
    partial = path.with_name(f".{copy.name}.partial")
    shutil.copyfile(path, partial)
    partial.chmod(0o600)
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.rename(partial, copy)
    sync_folder(path.parent)
    return copy
