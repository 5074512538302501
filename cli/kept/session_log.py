"""One session while it is written: a line per fact, on the disk before the program goes on.

Lines are only ever added. What a kill left behind the last finished line is cut off with the next
write; damage before that is copied beside first, so nothing that was kept is lost by going on. A
file that is lost while it is open is written anew from memory.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cli.kept.session_file import Lost, SessionFile, keep_beside
from cli.kept.session_lines import MOST_BYTES, MOST_LINE_BYTES, write_line
from cli.kept.session_replay import FORMAT, VERSION, Replay, SessionError, replay
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.file_systems import FileSystem

SUFFIX = ".jsonl"

Record = tuple[str, dict[str, Any]]
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time now."""
    return datetime.now(UTC)


class WriteError(SessionError):
    """A session that could not be written; `again` if that is so since an earlier error."""

    def __init__(self, message: str, again: bool) -> None:
        super().__init__(message)
        self.again = again


class SessionLog:
    """Writes one session, which no other program can open meanwhile.

    The file appears with the first message, so leaving at once leaves nothing behind.
    """

    def __init__(
        self,
        path: Path,
        *,
        files: FileSystem | None = None,
        check_name: Callable[[str, str], str] = lambda name, id: name,
        new_path: Callable[[], Path] | None = None,
        clock: Clock = utc_now,
    ) -> None:
        """`check_name` gives the name of the session with an id as it is kept, or raises
        UsageError; `new_path` gives a place for a session that cannot go on where it is."""
        self.path = path
        self.name: str | None = None
        self._files = files or FileSystem()
        self._check_name = check_name
        self._new_path = new_path or (lambda: path)
        self._clock = clock
        self._file: SessionFile | None = None
        self._waiting: list[Record] = []
        self._lines = self._end_byte = 0
        self._begun: dict[str, Any] = {}
        self._settings: dict[str, Any] = {}
        self._turns: list[Turn] = []
        self._unanswered: str | None = None
        self._damaged = self._failed = False
        self._found = ""  # what became of a lost file, told once the session is written anew

    @property
    def id(self) -> str:
        """Names the session for good, and sorts by the time it began."""
        return self.path.name.removesuffix(SUFFIX)

    @property
    def kv_path(self) -> Path:
        """Where the cache of this session is kept; it only saves time."""
        return self.path.with_suffix(".kv")

    @property
    def is_open(self) -> bool:
        """Whether it has a file, which other programs leave alone."""
        return self._file is not None

    def begin_turn(self, text: str) -> None:
        """A message is sent: kept before the answer begins."""
        self._write("question", {"text": text})
        self._unanswered = text

    def add_turn(self, turn: Turn, *, keep: int | None = None) -> None:
        """A question and its answer. `keep` earlier turns stay, all unless told: an answer that
        replaces others is one line, so there is no moment at which neither is kept."""
        kept = len(self._turns) if keep is None else self._within(keep)
        self._write("turn", {"keep": kept, "turn": turn.to_json()})
        self._turns, self._unanswered = [*self._turns[:kept], turn], None

    def rewind(self, keep: int) -> None:
        """The first `keep` turns stay."""
        self._write("rewind", {"keep": self._within(keep)})
        self._turns, self._unanswered = self._turns[:keep], None

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
        checked = self._check_name(name, self.id)
        self._note("name", {"name": checked})
        self.name = checked

    def close(self) -> None:
        """Let other programs open the session."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "SessionLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Opening

    def begin(self, model: str, parent: str | None) -> None:
        """A new session; its first line waits for the first message."""
        self._begun = {"format": FORMAT, "version": VERSION, "model": model, "parent": parent}
        self._begun["created"] = self._clock().isoformat(timespec="seconds")
        self._waiting.append(("session", self._begun))

    def resume(self) -> Replay:
        """Open the session that is there, read it, and go on after its last good line; in a file
        of its own where the old one may only be read."""
        file = SessionFile.open(self.path, self._files)
        try:
            session = replay(file.file, self.path, whole=True)
        except BaseException:
            file.close()
            raise
        self._take(session)
        if file.is_writable:
            self._file = file
        else:
            file.close()
            self._move(f"{self.path} may only be read")
        return session

    def _take(self, session: Replay) -> None:
        self.begin(session.model, session.parent)
        self._waiting = []
        self.name, self._settings = session.name, dict(session.settings)
        self._lines, self._end_byte = session.lines, session.end_byte
        self._turns = [turn for turn in session.turns if turn is not None]
        self._unanswered, self._damaged = session.unanswered, bool(session.damage)

    # Writing

    def _within(self, keep: int) -> int:
        if not 0 <= keep <= len(self._turns):
            raise UsageError(f"expected 0 to {len(self._turns)} turns to keep, found {keep}.")
        return keep

    def _note(self, kind: str, fields: dict[str, Any]) -> None:
        """A fact that alone makes no session: it waits until there is a message."""
        if self._waiting:
            self._waiting.append((kind, fields))
        else:
            self._write(kind, fields)

    def _write(self, kind: str, fields: dict[str, Any]) -> None:
        self._find_again()
        records, now = [*self._waiting, (kind, fields)], self._clock()
        lines = [write_line(self._lines + 1 + i, *record, now) for i, record in enumerate(records)]
        self._check_sizes(lines)
        try:
            self._append(b"".join(lines))
        except OSError as error:
            again, self._failed = self._failed, True
            raise WriteError(
                f"{self.path} cannot be written: {error.strerror}; what is said from here on is "
                "not kept until that changes.",
                again,
            ) from error
        self._waiting, self._failed = [], False
        self._lines += len(lines)
        self._end_byte += sum(map(len, lines))
        if self._found:
            self._files.tell(self._found)
            self._found = ""

    def _append(self, content: bytes) -> None:
        if self._file is None:
            self._file = SessionFile.create(self.path, self._files)
        if self._damaged:
            keep_beside(self.path, self._files)
            self._damaged = False
        self._file.append(content, self._end_byte)

    def _check_sizes(self, lines: list[bytes]) -> None:
        longest, total = max(map(len, lines)), self._end_byte + sum(map(len, lines))
        if longest > MOST_LINE_BYTES or total > MOST_BYTES:
            raise SessionError(
                f"{self.path} takes lines up to {MOST_LINE_BYTES:,} bytes and {MOST_BYTES:,} bytes "
                f"in all, and needed {longest:,} and {total:,}; this is not kept, begin a new "
                "session."
            )

    # Lost files

    def _find_again(self) -> None:
        """Have the whole session written anew where its file was lost."""
        lost = None if self._file is None else self._file.lost()
        if lost is Lost.REMOVED:
            self._anew(f"{self.path} was removed; the conversation is written there again.")
        elif lost is Lost.CHANGED:
            self._move(f"{self.path} was changed by another program")

    def _move(self, reason: str) -> None:
        """Leave the file as it is, and go on with the same session in another one."""
        self.path, self.name = self._new_path(), None
        self._anew(f"{reason}; the conversation goes on as {self.id}.")

    def _anew(self, found: str) -> None:
        self.close()
        self._found = found
        self._waiting, self._lines, self._end_byte = list(self._records()), 0, 0
        self._damaged = False

    def _records(self) -> Iterator[Record]:
        """All that the session is."""
        yield "session", self._begun
        if self.name is not None:
            yield "name", {"name": self.name}
        if self._settings:
            yield "settings", {"settings": dict(self._settings)}
        for number, turn in enumerate(self._turns):
            yield "turn", {"keep": number, "turn": turn.to_json()}
        if self._unanswered is not None:
            yield "question", {"text": self._unanswered}
