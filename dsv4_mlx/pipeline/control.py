"""What both ranks ask of the socket between them, which is opened before MLX's own connection."""

from contextlib import AbstractContextManager
from typing import Protocol


class Ranks(Protocol):
    """A group of `mx.distributed`, or what stands for one before it exists."""

    def rank(self) -> int: ...

    def size(self) -> int: ...


class Control(Protocol):
    """Whole messages to and from the other rank, in their order."""

    @property
    def peer(self) -> str:
        """The other rank, as people are told of it: `rank 1 (HOST)`."""
        ...

    def send(self, message: bytes, /) -> None:
        """PipelineError where the other rank is gone."""
        ...

    def receive(self) -> bytes:
        """The next message, waiting for it asleep.

        On rank 0 PipelineError where the other rank is gone or silent for too long; on a worker,
        which waits as long as it takes, EOFError once rank 0 has closed the socket.
        """
        ...

    def guarded(self) -> AbstractContextManager[None]:
        """Around a transfer of MLX's, whose wait no other thread of Python can end."""
        ...
