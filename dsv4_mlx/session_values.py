"""What a session hands out: how a prompt was read, and one point of a timeline."""

from dataclasses import dataclass

import mlx.core as mx

from dsv4_mlx.places import CacheSnapshot


@dataclass(frozen=True)
class Sync:
    """What ``Session.sync`` did: tokens it found in the timeline and tokens it read."""

    reused: int
    read: int
    cancelled: bool


@dataclass(frozen=True)
class SessionSnapshot:
    """One point of a timeline, good for ``restore`` as long as it is held."""

    tokens: tuple[int, ...]
    state: CacheSnapshot
    logits: mx.array
    """Float32 [V], for the token that follows."""

    @property
    def offset(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return self.state.nbytes + self.logits.nbytes
