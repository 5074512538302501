"""One part in a process of its own: what it tells, its limit, how it ended.

The process leads a session of its own, so that Ctrl-C reaches the report alone, which then ends it.
A process that is killed may be stuck in a driver: it is waited for a while and then left.
"""

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

_SHOWN_BYTES = 1500
_LAST_WAIT_S = 10.0
_READ_BYTES = 1 << 16

Wait = Callable[[int, float], bool]
"""Whether there is something to read of a file descriptor within so many seconds."""
Heard = Callable[["Outcome"], None]
"""Called with every change of an outcome."""


@dataclass
class Outcome:
    """What came of a part. `state`: running, done, failed, hung, interrupted or left out."""

    name: str
    state: str = "running"
    at: str = ""
    """What it did last."""
    message: str = ""
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


class Stopped(Exception):
    """The person, or the system, ended the report while a part ran."""


def readable(descriptor: int, seconds: float) -> bool:
    """Wait for something to read."""
    return bool(select.select([descriptor], [], [], max(0.0, seconds))[0])


def run(
    name: str,
    command: list[str],
    environment: Mapping[str, str],
    limit_s: float,
    heard: Heard,
    wait: Wait = readable,
) -> Outcome:
    """Run a part to its end or its limit; raises Stopped where the report is interrupted."""
    outcome = Outcome(name)
    heard(outcome)
    started = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(environment),
            start_new_session=True,
        )
        assert process.stdout is not None
        ear = _Ear(process.stdout.fileno(), outcome, heard)
        try:
            within = ear.listen(started + limit_s, wait)
            _conclude(outcome, process, within, limit_s, errors)
        except KeyboardInterrupt:
            outcome.state = "interrupted"
            raise Stopped from None
        finally:
            _end(process)
            ear.take_what_is_left()
            process.stdout.close()
            outcome.seconds = round(time.monotonic() - started, 2)
            heard(outcome)
    return outcome


class _Ear:
    """Takes in what a part tells."""

    def __init__(self, descriptor: int, outcome: Outcome, heard: Heard):
        self._descriptor, self._outcome, self._heard = descriptor, outcome, heard
        self._rest = b""

    def listen(self, deadline: float, wait: Wait) -> bool:
        """Until the part ends its side; False where the deadline came first."""
        while wait(self._descriptor, deadline - time.monotonic()):
            if not self._take():
                return True
        return False

    def take_what_is_left(self) -> None:
        """What was told before the end and not read yet."""
        while readable(self._descriptor, 0.0) and self._take():
            continue

    def _take(self) -> bool:
        read = os.read(self._descriptor, _READ_BYTES)
        *lines, self._rest = (self._rest + read).split(b"\n")
        for told in _understood(lines):
            self._outcome.at = told.get("at", self._outcome.at)
            self._outcome.rows += [told["row"]] if "row" in told else []
        if lines:
            self._heard(self._outcome)
        return bool(read)


def _understood(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    """The lines that are ours; a dying process may leave half of one."""
    for line in lines:
        with suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict):
                yield told


def _conclude(
    outcome: Outcome,
    process: subprocess.Popen[bytes],
    within: bool,
    limit_s: float,
    errors: IO[bytes],
) -> None:
    if not within:
        outcome.state = "hung"
        outcome.message = f"ended after its limit of {limit_s:,.0f} s"
        return
    status = process.wait()
    outcome.state = "done" if status == 0 else "failed"
    if status < 0:
        outcome.message = f"ended by {_signal_name(-status)}"
    elif status > 0:
        outcome.message = f"ended with status {status}"
    if status and (last := _last_bytes(errors)):
        outcome.message += f"\n{last}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_bytes(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _SHOWN_BYTES))
    return errors.read().decode("utf-8", "replace").strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of the part is left, but for a process that the system cannot end."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_LAST_WAIT_S)
