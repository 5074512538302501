"""The processes of two ranks: rank 0 a child, the worker over ssh or, on 127.0.0.1, a child too.

Each ends when its stdin does, so none outlives the terminal, however that ends.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread

from cli.ranks.rank_work import RankWork
from dsv4_mlx.peers.hostfile import LEFT_OUT, PeerHost

_SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR")
_PROGRAM = ("-P", "-m", "cli.ranks.rank_program")
_LINES = 200
_PATIENCE_S = 3.0


@dataclass
class RankProcess:
    """One started rank."""

    process: "subprocess.Popen[bytes]"
    said: "deque[str]" = field(default_factory=lambda: deque(maxlen=_LINES))
    """The last lines of its stderr."""
    keep: Callable[[str], None] | None = None
    """Gets each line of it."""
    _reader: Thread = field(init=False)

    def __post_init__(self) -> None:
        self._reader = Thread(target=self._read, name="stderr", daemon=True)
        self._reader.start()

    @property
    def status(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self.process.poll()

    @property
    def failed(self) -> bool:
        """Whether our program ran there and ended by a mistake, once it ended."""
        self._reader.join(_PATIENCE_S)
        return any(line.startswith("Traceback ") for line in self.said)

    @property
    def last_words(self) -> str:
        """The last line of its stderr, once it ended."""
        self._reader.join(_PATIENCE_S)
        return next((line for line in reversed(self.said) if line.strip()), "").strip()

    def leave(self) -> None:
        """Let it know that nothing more is asked."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def end(self) -> None:
        """Until it has ended: by itself, asked to, or at once."""
        for end in (self.leave, self._terminate, self.process.kill):
            end()
            try:
                self.process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                continue
            return

    def _terminate(self) -> None:
        self.process.terminate()
        self.process.send_signal(signal.SIGCONT)  # one that is stopped hears nothing before

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            text = line.decode("utf-8", "replace").rstrip()
            self.said.append(text)
            if self.keep is not None:
                self.keep(text)


def start(
    work: RankWork,
    host: PeerHost,
    variables: Mapping[str, str],
    keep: Callable[[str], None] | None = None,
) -> RankProcess:
    """Start a rank on `host`; it reads its work at once. `keep` gets the lines of its stderr.
    OSError where ssh is missing."""
    here = work.rank == 0 or host.is_local
    python = sys.executable if here else host.python or sys.executable
    command = [python, *_PROGRAM]
    if not here:
        unset = [word for name in LEFT_OUT for word in ("-u", name)]
        told = [f"{name}={value}" for name, value in variables.items()]
        command = ["env", *unset, *told, *command]
        command = [*_SSH, "--", host.ssh, f"exec {shlex.join(command)}"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if work.rank == 0 else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(variables) if here else None,
        start_new_session=True,  # Ctrl-C is the terminal's to understand
    )
    assert process.stdin is not None
    with suppress(OSError):  # it ended already, and why is asked for below
        process.stdin.write(work.to_line())
        process.stdin.flush()
    return RankProcess(process, keep=keep)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    found = {**os.environ, **variables}
    return {name: value for name, value in found.items() if name not in LEFT_OUT}
