"""What timelines hold at a place, what that costs, and which of it goes first.

A place has a state of fixed size of its own. What grows with a timeline, its compressed entries, is
shared by all places of one line: a session that goes on from the line's tip appends to it, and one
that goes on from an earlier place copies what it sees into a line of its own.

What goes first: places of side requests; then whatever nobody came to for longest, where a place
that others branched from counts as used some requests later for each time. Only two kinds of places
go. Leaves, after which nothing is held. And way points, which lie between two places of one
timeline, where nobody ever branched and no beginning ends. So what is held after a place never
loses the place it branched from.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dsv4_mlx.engine.places import CacheSnapshot
from dsv4_mlx.serving.token_tree import TokenNode

if TYPE_CHECKING:
    import mlx.core as mx

_LATER: Final = 8
"""Requests by which each return to a place makes it count as used later."""
_MOST_RETURNS: Final = 8


@dataclass(eq=False)
class GrowingLine:
    """The growing arrays of one line of places, in bytes, for `tokens` tokens; `tip` is the last
    offset held of it."""

    nbytes: int = 0
    tokens: int = 0
    tip: int = 0
    is_open: bool = False
    """Whether a session appends to it now."""


@dataclass(eq=False)
class HeldPlace:
    """What is held at one place. Times count requests."""

    state: CacheSnapshot
    logits: "mx.array | None"
    line: GrowingLine
    made: int
    reached: int
    """When a request last read or found it, or something after it."""
    on_probation: bool = False
    is_beginning: bool = False
    """Whether what many prompts begin with ends here."""
    returns: int = 0
    """Requests that began here although something was held after it."""
    pins: int = 0
    """Requests that wait for it or run from it."""

    @property
    def nbytes(self) -> int:
        """Bytes of its own."""
        return self.state.nbytes + (0 if self.logits is None else self.logits.nbytes)


HeldNode = TokenNode[HeldPlace]


def may_go(node: HeldNode) -> bool:
    """Whether the place of `node` can be let go of without taking it from what needs it."""
    held = node.held
    if held is None or held.pins:
        return False
    is_way_point = len(node.children) == 1 and not held.returns and not held.is_beginning
    return node.is_leaf or is_way_point


def worth(node: HeldNode) -> tuple[bool, int]:
    """Of two places that may go the one with the smaller worth goes first."""
    held = node.held
    assert held is not None
    used = held.reached if node.is_leaf else held.made
    return not held.on_probation, used + _LATER * min(held.returns, _MOST_RETURNS)


def bytes_of(nodes: Iterable[HeldNode]) -> int:
    """Bytes of the places, and once those of each line."""
    held = [node.held for node in nodes if node.held is not None]
    lines = {id(one.line): one.line for one in held}
    return sum(one.nbytes for one in held) + sum(line.nbytes for line in lines.values())
