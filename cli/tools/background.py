"""What commands leave running: named when they leave it, and ended with the conversation.

A command runs in a session of its own (setsid), which all it starts belongs to. A process that
begins another session means to outlive the command: it is named where its environment tells (on
Linux) and left alone.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "DSV4_CHAT_COMMAND"
"""In the environment of a command and all it starts: a mark of its own."""
_PROC = Path("/proc")
_PATIENCE_S = 1.0
_LOOK_S = 0.02
_MOST_NAMED = 5


@dataclass(frozen=True)
class Process:
    """One that runs; `started` tells it from a later one with the same number."""

    pid: int
    session: int
    """Its process group where the system tells no sessions."""
    started: str
    name: str
    mark: str = ""
    """VARIABLE, where it can be read."""


@dataclass(frozen=True)
class _Left:
    mark: str
    seen: frozenset[tuple[int, str]]


class Background:
    """Processes that the commands of one conversation left."""

    def __init__(self) -> None:
        self._left: dict[int, _Left] = {}

    def look(self, session: int, mark: str) -> list[str]:
        """Sentences about what the command that began `session` left running."""
        running = processes()
        inside = [one for one in running if one.session == session]
        outside = [one for one in running if one.mark == mark and one.session != session]
        sentences = []
        if inside:
            seen = frozenset((one.pid, one.started) for one in inside)
            self._left[session] = _Left(mark, seen)
            sentences.append(f"goes on until this conversation ends: {_named(inside)}")
        if outside:
            sentences.append(f"goes on, also when this conversation ends: {_named(outside)}")
        return sentences

    def end(self) -> list[str]:
        """End all that was left in the commands' own sessions; a sentence about what that was."""
        if not self._left:
            return []
        ended = self._ours()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for one in self._ours():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(one.pid, number)
            if _within(_PATIENCE_S, lambda: not self._ours()):
                break
        self._left = {}
        return [f"ended with the conversation: {_named(ended)}"] if ended else []

    def _ours(self) -> list[Process]:
        """Those that were said to end, and the others of our sessions. A number may be another's
        session by now: it is ours when one in it was said or carries the mark."""
        running = processes()
        said = {one for left in self._left.values() for one in left.seen}
        sure = {one.session for one in running if self._is_known(one)}
        return [one for one in running if one.session in sure or (one.pid, one.started) in said]

    def _is_known(self, one: Process) -> bool:
        left = self._left.get(one.session)
        return left is not None and (one.mark == left.mark or (one.pid, one.started) in left.seen)


def processes() -> list[Process]:
    """Those that run now, not those that ended and are not waited for."""
    return _of_linux() if (_PROC / "self" / "stat").exists() else _of_ps()


def _of_linux() -> list[Process]:
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):  # it ended meanwhile
                name, _, rest = (entry / "stat").read_text(errors="replace").rpartition(")")
                fields = rest.split()  # from the third of proc(5) on
                if fields[0] not in "ZX":
                    mark = _mark(entry / "environ")
                    name = name.partition("(")[2]
                    found.append(Process(int(entry.name), int(fields[3]), fields[19], name, mark))
    return found


def _mark(environment: Path) -> str:
    try:
        content = environment.read_bytes()
    except OSError:  # another's
        return ""
    for entry in content.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == VARIABLE.encode():
            return value.decode("ascii", "replace")
    return ""


def _of_ps() -> list[Process]:
    command = ["ps", "-A", "-o", "pid=,pgid=,stat=,lstart=,comm="]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
    except OSError:
        return []
    found = []
    for line in listed.splitlines():
        pid, group, state, *started, name = line.split(None, 8)
        if not state.startswith("Z"):
            found.append(Process(int(pid), int(group), " ".join(started), Path(name).name))
    return found


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _named(running: Sequence[Process]) -> str:
    shown = [f"{one.name} ({one.pid})" for one in running[:_MOST_NAMED]]
    more = len(running) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
