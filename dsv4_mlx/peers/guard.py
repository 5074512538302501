"""What ends a process whose other rank is given up.

MLX's waits cannot be interrupted, so a thread ends the process instead; what was said before is
kept elsewhere.
"""

from collections.abc import Callable
from threading import Event as Flag
from threading import Lock, Thread

from dsv4_mlx.peers.peer_socket import PeerSocket
from dsv4_mlx.peers.watchdog import Watchdog

_TICK_S = 0.5
GRACE_S = 1.0
"""For the waits of MLX that end by themselves, and the sentence that then comes by itself."""


class Guard:
    """Watches a connection and the waits of requests; `end` gets the sentence, once, on a thread.

    It must end the process: whoever waits for the other rank waits on.
    """

    def __init__(
        self,
        peer: PeerSocket,
        watchdog: Watchdog,
        end: Callable[[str], None],
        *,
        tick_s: float = _TICK_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._peer = peer
        self._watchdog = watchdog
        self._end = end
        self._tick_s = tick_s
        self._grace_s = grace_s
        self._is_done = Flag()
        self._lock = Lock()
        peer.when_given_up(self._after_grace)
        self._thread = Thread(target=self._look, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End nothing from now on."""
        with self._lock:
            self._is_done.set()

    def _after_grace(self, sentence: str) -> None:
        self._is_done.wait(self._grace_s)
        self._once(sentence)

    def _look(self) -> None:
        while not self._is_done.wait(self._tick_s):
            if (waited := self._watchdog.overdue_s()) is not None:
                self._once(
                    f"{self._peer.name} has not answered for {waited:.0f} s; look what became of "
                    "it there, then start again."
                )

    def _once(self, sentence: str) -> None:
        with self._lock:
            if self._is_done.is_set():
                return
            self._is_done.set()
        self._end(sentence)
