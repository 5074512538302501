"""Messages on the control socket: int32 numbers from rank 0, answers with a byte that says how.

Rank 0 names caches and snapshots by numbers of its own; rank 1 holds its layers' state by them.
Operations from `CALL` on up to `FILL` are answered, the others are done in silence; what fails in
silence is the answer to the next one that is answered.
"""

from collections.abc import Iterable
from enum import IntEnum

import numpy as np

from dsv4_mlx.errors import PipelineError


class PipeOperation(IntEnum):
    """What rank 0 asks for, with the numbers that follow it."""

    FACTS = 0
    """-> JSON: layers, bytes read, fingerprint."""
    CALL = 1
    """cache, B, S, B * S ids -> nothing, then streams [B, S, N, D] by the group."""
    SIZES = 2
    """cache -> three int64 numbers, those of `CacheBytes`."""
    GATHER = 3
    """cache, snapshots -> a list of arrays, then these by the group."""
    FILL = 4
    """cache, tokens, then offset and snapshot of each place -> nothing; then a message with a list
    of arrays, and these by the group -> nothing."""
    NEW = 5
    """cache."""
    DROP = 6
    """caches and snapshots that nobody holds any more."""
    SNAPSHOT = 7
    """cache, snapshot."""
    RESTORE = 8
    """cache, snapshot."""
    FORK = 9
    """cache, new cache."""
    MARK = 10
    """cache, offsets inside the next call."""
    MARKED = 11
    """cache, a snapshot for each of them."""
    MERGE = 12
    """new cache, caches whose rows it gets."""
    EXTRACT = 13
    """cache, row, new cache."""
    PREPARE = 14
    """cache, rows; then of all rows the left padding, the lengths, the right padding."""
    FINALIZE = 15
    """cache."""
    COMPACT = 16
    """snapshots of one timeline, which then hold no more entries than they see."""
    QUIT = 17
    """The worker ends."""


ANSWERED = frozenset(range(PipeOperation.FACTS, PipeOperation.NEW))
_DONE, _FAILED = b"\x00", b"\x01"


def asked(operation: PipeOperation, *numbers: int, ids: Iterable[int] = ()) -> bytes:
    """A message of rank 0."""
    return np.array([operation, *numbers, *ids], "<i4").tobytes()


def understood(message: bytes) -> tuple[PipeOperation, list[int]]:
    """What `asked` was given."""
    operation, *numbers = np.frombuffer(message, "<i4").tolist()
    return PipeOperation(operation), numbers


def done(payload: bytes = b"") -> bytes:
    """The answer to what was done."""
    return _DONE + payload


def failed(sentence: str) -> bytes:
    """The answer to what was not."""
    return _FAILED + sentence.encode()


def payload_of(answer: bytes, peer: str) -> bytes:
    """What `done` was given; PipelineError with the sentence that `failed` was given."""
    if answer[:1] == _DONE:
        return answer[1:]
    error = answer[1:].decode(errors="replace")
    raise PipelineError(f"{peer} failed: {error}")
