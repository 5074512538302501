"""What the lines of a session file add up to.

    session   first line: which program and version wrote it, the model, when, the parent of a fork
    name      what the person calls it
    settings  what was set in it; later keys replace earlier ones
    question  a message that was sent; its turn follows when the answer is there
    turn      a question with its answer; `keep` earlier turns stay, the others are replaced
    rewind    `keep` turns stay

Lines of another type come from a newer version: they are passed over, told about, and stay.
"""

from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from cli.kept.session_lines import Line, LineError, raw_lines, read_line
from cli.safe import exact
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import Dsv4Error, PromptError

FORMAT, VERSION = "dsv4-chat session", 1
_MOST_SHOWN = 1000


class SessionError(Dsv4Error):
    """A session that cannot be opened or written."""


class NothingKept(SessionError):
    """A file that a program began and had no time to write a line to."""


class Replay:
    """A session after its last good line.

    With `whole` unset, turns are counted and not read, which is enough for a list of sessions.
    """

    def __init__(self, whole: bool) -> None:
        self.model = ""
        """Its folder; like the names safe to show."""
        self.parent: str | None = None
        self.name: str | None = None
        self.title = ""
        """What was asked first."""
        self.settings: dict[str, Any] = {}
        self.turns: list[Turn | None] = []
        self.unanswered: str | None = None
        self.lines = 0
        self.end_byte = 0
        """Where the next line goes: after the last good one."""
        self.damage = ""
        """Why reading ended before the last line, empty when it did not."""
        self.changed: datetime | None = None
        """When the last line was written, as far as lines tell."""
        self.newer: list[str] = []
        """Types of lines that this version does not know."""
        self._whole = whole

    def take(self, line: Line) -> None:
        """Add the next line; LineError, and nothing changed, when it makes no sense there."""
        if (line.number == 1) != (line.kind == "session"):
            raise LineError("is not the first line of a session" if line.number == 1 else "begins")
        match line.kind:
            case "session":
                self._begin(line.fields())
            case "name":
                self.name = _shown(line.fields(), "name")
            case "settings":
                self.settings |= _object(line.fields(), "settings")
            case "question":
                self._ask(_text(line.fields(), "text"))
            case "turn":
                self._add(line)
            case "rewind":
                self.turns = self.turns[: self._kept(line)]
                self.unanswered = None
            case kind:
                self.newer += [] if kind in self.newer else [kind]
        self.lines, self.changed = line.number, line.at or self.changed

    def _begin(self, fields: dict[str, Any]) -> None:
        if fields.get("format") != FORMAT:
            raise LineError("is of another program")
        if fields.get("version") != VERSION:
            raise LineError("was written by a newer version of this program")
        parent = None if fields.get("parent") is None else _shown(fields, "parent")
        self.model, self.parent = _shown(fields, "model"), parent
        self.changed = _time(fields.get("created"))

    def _ask(self, text: str) -> None:
        self.unanswered = text
        if not self.turns:
            self.title = text

    def _add(self, line: Line) -> None:
        kept = self._kept(line)
        # A fork begins with turns that nobody asked here: the first is read for its title.
        untitled = not kept and self.unanswered is None
        turn = _turn(line.fields()) if self._whole or untitled else None
        if not kept:
            self.title = turn.text if turn is not None else str(self.unanswered)
        self.turns = [*self.turns[:kept], turn]
        self.unanswered = None

    def _kept(self, line: Line) -> int:
        if line.keep is None or line.keep > len(self.turns):
            raise LineError(f"keeps {line.keep} turns of {len(self.turns)}")
        return line.keep


def replay(file: BinaryIO, path: Path, *, whole: bool) -> Replay:
    """Everything up to the first line that is damaged, which `damage` then tells about.

    A last line without its end is what a kill leaves behind: it is no damage and not there.
    SessionError when not even the first line can be used, NothingKept when there is none.
    """
    session = Replay(whole)
    try:
        for number, raw in enumerate(raw_lines(file), start=1):
            session.take(read_line(raw, number))
            session.end_byte += len(raw) + 1
    except LineError as error:
        session.damage = f"line {session.lines + 1} {error}"
    if not session.lines and not session.damage:
        raise NothingKept(f"{path} holds nothing yet.")
    if not session.lines:
        raise SessionError(
            f"{path} is no session that can be read: {session.damage}; move it elsewhere."
        )
    return session


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise LineError(f"has no text as its {key}")
    return value


def _shown(fields: dict[str, Any], key: str) -> str:
    """A short text for lists and notes, with nothing in it that cannot be seen."""
    return exact(_text(fields, key))[:_MOST_SHOWN]


def _time(value: object) -> datetime | None:
    """A time that an older version wrote."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time is not None and time.tzinfo is not None else None


def _object(fields: dict[str, Any], key: str) -> dict[str, Any]:
    value = fields.get(key)
    if not isinstance(value, dict):
        raise LineError(f"has no object as its {key}")
    return value


def _turn(fields: dict[str, Any]) -> Turn:
    try:
        return Turn.from_json(_object(fields, "turn"))
    except (PromptError, RecursionError) as error:
        raise LineError("holds no turn that this program writes") from error
