"""What calls of a session give and take beside tokens: progress, what was read, moments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from dsv4_mlx.engine.places import CacheSnapshot

OnProgress = Callable[[int, int], None]
"""Called with (tokens read, tokens to read); tokens the timeline already held are not counted."""

OnLayer = Callable[[int, int], None]
"""Called with (layers passed, layers) while the tokens that are read next pass them together."""


@dataclass(frozen=True)
class Sync:
    """What `Session.sync` did: tokens it found in the timeline and tokens it read."""

    reused: int
    read: int
    cancelled: bool


@dataclass(frozen=True)
class SessionSnapshot:
    """One point of a timeline, good for `Session.restore` as long as it is held."""

    tokens: tuple[int, ...]
    state: CacheSnapshot
    logits: mx.array | None
    """Float32 [V], for the token that follows; None where only reading the last one gives them."""

    @property
    def offset(self) -> int:
        """Tokens up to this point."""
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return self.state.nbytes + (0 if self.logits is None else self.logits.nbytes)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    shorter = min(len(one), len(other))
    for index in range(shorter):
        if one[index] != other[index]:
            return index
    return shorter
