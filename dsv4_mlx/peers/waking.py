"""Keeping a Mac from idle sleep while two of them work on a request."""

import os
import subprocess
import sys
import time
from collections.abc import Callable

HELD_S = 120
_RENEWED_S = 60.0


class Waking:
    """Holds off idle sleep for two minutes after every message, by the system's `caffeinate`.

    Elsewhere than on a Mac, or where a person allows sleep, it does nothing.
    """

    def __init__(
        self,
        is_wanted: bool = True,
        *,
        system: str = sys.platform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_on = is_wanted and system == "darwin"
        self._clock = clock
        self._since: float | None = None
        self._holding: subprocess.Popen[bytes] | None = None

    def touch(self) -> None:
        """Something was asked or answered."""
        now = self._clock()
        if not self._is_on or (self._since is not None and now - self._since < _RENEWED_S):
            return
        earlier, self._since = self._holding, now
        command = ["caffeinate", "-i", "-t", str(HELD_S), "-w", str(os.getpid())]
        try:
            self._holding = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        except OSError:
            self._is_on = False  # no caffeinate, no reason to fail
        if earlier is not None:
            _end(earlier)

    def close(self) -> None:
        """Let the machine sleep when it likes."""
        self._is_on = False
        if self._holding is not None:
            _end(self._holding)
            self._holding = None


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait()
