"""What requests may take together: memory, places to wait in, and time by somebody's clock."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dsv4_mlx.sizing.costs import Costs, Kv

QUANTUM_S: Final = 0.3
"""How long the others wait while a prompt is read, about; a read is never cut because of it."""
LONGEST_REPLY: Final = 65_536
"""Tokens of a reply that memory is set aside for where nobody bounds it, and that it may have."""
LEAST_REPLY: Final = 256
"""A request for which memory holds no reply of so many tokens is refused; a longer one is cut."""


@dataclass(frozen=True)
class ServingLimits:
    """Limits of a scheduler. Bytes are plain bytes, seconds those of the scheduler's clock."""

    memory_bytes: int = 1 << 62
    """For the timelines of requests and all that is kept of earlier ones, together."""
    bytes_of: Callable[[int], int] = field(default=lambda tokens: 0)
    """What a timeline of so many tokens takes."""
    most_running: int = 16
    most_waiting: int = 256
    """Requests of which an answer has not begun, however many answers they want."""
    longest_wait_s: float | None = None
    longest_reply: int = LONGEST_REPLY
    quantum_s: float = QUANTUM_S

    def reply_tokens(self, prompt: int, asked: int | None, context: int) -> int | None:
        """Tokens that the reply to a prompt of so many may have: what was asked for, as far as the
        context and all of the memory hold it. None where that is too little to begin.

        It hangs on no other request, so that a reply is as long in company as alone.
        """
        most = min(self.longest_reply if asked is None else asked, context - prompt)
        if self._holds(prompt + most):
            return most
        least = min(most, LEAST_REPLY)
        if not self._holds(prompt + least):
            return None
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if self._holds(prompt + middle) else (least, middle)
        return least

    def longest(self, context: int) -> int:
        """Tokens of a prompt and its reply that memory holds at most, of the model's `context`."""
        if self._holds(context):
            return context
        return bisect_left(range(context), True, key=lambda tokens: not self._holds(tokens)) - 1

    def _holds(self, tokens: int) -> bool:
        return self.bytes_of(tokens) <= self.memory_bytes

    def too_much(self, prompt: int, asked: int | None) -> str:
        """Why a prompt of so many tokens never fits with the reply that was asked for."""
        reply = LEAST_REPLY if asked is None else min(asked, LEAST_REPLY)
        need = f"{self.bytes_of(prompt + reply) / 1e9:.1f} GB"
        return (
            f"The prompt of {prompt:,} tokens and a reply of {reply} need {need} and timelines "
            f"have {self.memory_bytes / 1e9:.1f} GB together; send less."
        )


def bytes_of_timelines(costs: Costs, kv: Kv = "compact") -> Callable[[int], int]:
    """What a timeline of so many tokens takes, its growing arrays with the room they keep."""
    return lambda tokens: costs.cache_bytes(tokens + tokens // 64 + 256, kv)
