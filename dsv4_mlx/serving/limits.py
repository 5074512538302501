"""What requests may take together: memory, places to wait in, and time by somebody's clock."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dsv4_mlx.sizing.costs import Costs, Kv

QUANTUM_S: Final = 0.3
"""How long the others wait while a prompt is read, about; a read is never cut because of it."""
LONGEST_REPLY: Final = 65_536
"""Tokens of a reply that memory is set aside for where nobody bounds it, and that it may have."""


@dataclass(frozen=True)
class ServingLimits:
    """Limits of a scheduler. Bytes are plain bytes, seconds those of the scheduler's clock."""

    memory_bytes: int = 1 << 62
    """For the timelines of requests and all that is kept of earlier ones, together."""
    bytes_of: Callable[[int], int] = field(default=lambda tokens: 0)
    """What a timeline of so many tokens takes."""
    most_running: int = 16
    most_waiting: int = 256
    longest_wait_s: float | None = None
    longest_reply: int = LONGEST_REPLY
    quantum_s: float = QUANTUM_S

    def too_much(self, tokens: int, nbytes: int) -> str:
        """Why a prompt of so many tokens, which needs `nbytes` with its reply, never fits."""
        need, most = f"{nbytes / 1e9:.1f} GB", f"{self.memory_bytes / 1e9:.1f} GB"
        return (
            f"The prompt of {tokens:,} tokens and its reply need {need} and timelines have {most} "
            "together; send less, or ask for a shorter reply."
        )


def bytes_of_timelines(costs: Costs, kv: Kv = "compact") -> Callable[[int], int]:
    """What a timeline of so many tokens takes, its growing arrays with the room they keep."""
    return lambda tokens: costs.cache_bytes(tokens + tokens // 64 + 256, kv)
