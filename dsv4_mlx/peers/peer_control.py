"""The socket between two ranks as a pipeline asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from dsv4_mlx.errors import PipelineError
from dsv4_mlx.peers.peer_socket import PeerSocket
from dsv4_mlx.peers.waking import Waking
from dsv4_mlx.peers.watchdog import Watchdog


class PeerControl:
    """See `dsv4_mlx.pipeline.control.Control`."""

    def __init__(
        self, peer: PeerSocket, watchdog: Watchdog, waking: Waking, *, waits_asleep: bool
    ) -> None:
        """`waits_asleep`: what is received may take as long as it likes, as on a worker."""
        self._peer = peer
        self._watchdog = watchdog
        self._waking = waking
        self._waits_asleep = waits_asleep

    @property
    def peer(self) -> str:
        """The other rank, `rank 1 (HOST)`."""
        return self._peer.name

    def send(self, message: bytes) -> None:
        """PipelineError where the other rank is gone."""
        self._waking.touch()
        self._peer.send(message)

    def receive(self) -> bytes:
        """The next message; PipelineError where the other rank is gone, EOFError where it left."""
        if self._waits_asleep:
            message = self._peer.receive()
        else:
            with self._watchdog.watching():
                message = self._peer.receive()
        if message is None:
            if self._waits_asleep:
                raise EOFError
            raise PipelineError(f"{self.peer} left while it was needed; start again.")
        self._waking.touch()
        return message

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Around a transfer of MLX's, whose wait no other thread of Python can end."""
        with self._watchdog.watching():
            yield
