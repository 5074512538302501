"""What the model has read, over all conversations: found by tokens, forked, and let go of in order.

Between requests there are no sessions, only places: a state of fixed size each, and entries that
places of one timeline share. A request opens a timeline at the deepest place that its prompt passes
and reads on from there; when it ends, the places it took are kept. So a conversation, its retries
and its branches, and others that begin alike are one tree, and nothing of it is in the way of a
request that goes somewhere else. See `held` for what goes when memory is short.

>>> with timelines.open(prompt) as line:      # pins where it began
...     for held in line.session.reading(prompt, places): ...
...     timelines.keep(line)

All of it belongs to the model's thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dsv4_mlx.engine.moments import SessionSnapshot
from dsv4_mlx.serving.held import GrowingLine, HeldNode, HeldPlace, bytes_of, may_go, worth
from dsv4_mlx.serving.token_tree import TokenTree

if TYPE_CHECKING:
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.engine.session import Session
    from dsv4_mlx.serving.disk_tier import DiskTier
    from dsv4_mlx.serving.disk_writer import Writing
    from dsv4_mlx.serving.stored import StoredPlace

APART: Final = 4096
"""Tokens from one place of a long read to the next, at most: what a crash or a cancel costs."""
_LATEST_TURNS: Final = 2


def places_of(boundaries: Sequence[int], length: int, apart: int = APART) -> list[int]:
    """Where to take places while a prompt of `length` tokens is read.

    `boundaries` are offsets at which user turns begin, so where replies before them end. The first
    is the end of what conversations share, the last two are where somebody may edit or retry; of
    the others one in `apart` tokens, and where none lies that far, whatever token is there.
    """
    inside = sorted({offset for offset in boundaries if 1 < offset < length})
    chosen = {*inside[:1], *inside[-_LATEST_TURNS:]}
    waiting = [offset for offset in inside if offset not in chosen]
    for start in range(0, length, apart):
        within = [offset for offset in (*chosen, *waiting) if start < offset <= start + apart]
        if not within and start + apart < length:
            chosen.add(start + apart)
        elif within and not chosen.intersection(within):
            chosen.add(within[-1])
    return sorted(chosen)


@dataclass(eq=False)
class OpenTimeline:
    """A session on its way, and the place where it began; leave it, or `close`, to let go of it."""

    session: "Session"
    owner: str
    is_side: bool
    line: GrowingLine
    reused: int
    """Tokens that need no reading."""
    beginning: HeldPlace | None = field(default=None, repr=False)

    def __enter__(self) -> "OpenTimeline":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the place where it began; twice is once."""
        if self.beginning is not None:
            self.beginning.pins -= 1
            self.beginning = None
        self.line.is_open = False


@dataclass(eq=False)
class Pin:
    """Holds a place that a waiting request will begin from; None holds nothing."""

    held: HeldPlace | None
    tokens: int
    """How many tokens need no reading from there, or from the disk where that leads further."""
    shared_bytes: int = 0
    """Of what a timeline from here will take, bytes that are held already and not copied."""

    def release(self) -> None:
        """Let go of it; twice is once."""
        if self.held is not None:
            self.held.pins -= 1
            self.held = None


@dataclass(frozen=True)
class Parting:
    """How a prompt fits what is held: of its tokens `matched` were read before, the last place on
    their way lies after `found`."""

    matched: int
    found: int


class Timelines:
    """The tree of each owner, with at most `budget_bytes` of all of them together."""

    def __init__(self, engine: "Engine", budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.room: Callable[[], int] = lambda: self.budget_bytes
        """Bytes that requests on their way leave; whoever serves them knows."""
        self.tier: DiskTier | None = None
        """Where timelines lie on disk, if they do."""
        self.evicted = 0
        """Places that were let go of so far."""
        self._engine = engine
        self._trees: dict[str, TokenTree[HeldPlace]] = {}
        self._requests = 0

    def __len__(self) -> int:
        """How many places are held."""
        return sum(1 for _ in self._nodes())

    @property
    def nbytes(self) -> int:
        """Bytes of all places, and of what they share."""
        return bytes_of(self._nodes())

    def look(self, tokens: Sequence[int], owner: str = "") -> Parting:
        """How `tokens` fit what is held; it changes nothing."""
        matched, node = self._deepest(tokens, owner)
        return Parting(matched, 0 if node is None else node.end)

    def pin(self, tokens: Sequence[int], owner: str = "") -> Pin:
        """Hold the place from which `tokens` would be read until the pin is released; where the
        disk leads further, that is read whole and shares nothing with what is held."""
        _, node = self._deepest(tokens, owner)
        stored = self._further(tokens, owner, 0 if node is None else node.end)
        if node is None or node.held is None:
            return Pin(None, 0 if stored is None else stored.offset)
        node.held.pins += 1
        if stored is not None:
            return Pin(node.held, stored.offset)
        line = node.held.line
        goes_on = line.tip == node.end and not line.is_open
        return Pin(node.held, node.end, line.nbytes if goes_on else 0)

    def open(
        self, tokens: Sequence[int], owner: str = "", *, is_side: bool = False
    ) -> OpenTimeline:
        """A session at the deepest place that `tokens` pass, from which they are read on.

        What a side request reads is on probation: it goes first, until another request comes to it.
        """
        self._requests += 1
        _, node = self._deepest(tokens, owner)
        stored = self._stored(tokens, owner, 0 if node is None else node.end)
        if stored is not None:
            line = GrowingLine(is_open=True)
            return OpenTimeline(stored, owner, is_side, line, len(stored))
        session = self._engine.session()
        if node is None or node.held is None:
            return OpenTimeline(session, owner, is_side, GrowingLine(is_open=True), 0)
        held = node.held
        held.pins += 1
        held.returns += not node.is_leaf
        self._reach(node, is_side)
        session.restore(SessionSnapshot(tuple(tokens[: node.end]), held.state, held.logits))
        line = held.line
        if line.is_open or line.tip != node.end:
            line = GrowingLine()
        line.is_open = True
        return OpenTimeline(session, owner, is_side, line, node.end, held)

    def keep(self, line: OpenTimeline, beginnings: Sequence[int] = ()) -> None:
        """Hold the places that an open timeline took, and the point where it stands.

        At the offsets `beginnings` ends what many prompts begin with.
        """
        session, tokens = line.session, line.session.tokens
        sizes = session.sizes()
        line.line.nbytes, line.line.tokens = sizes.compressed + sizes.index, len(tokens)
        for place in session.places:
            if place.snapshot is not None:
                moment = SessionSnapshot(tuple(tokens[: place.offset]), place.snapshot, None)
                self._hold(line, moment, place.offset in beginnings)
        if (now := session.moment()).offset:
            self._hold(line, now, now.offset in beginnings)
        self.shrink()

    def shrink(self) -> bool:
        """Let go of places until the others fit the budget and `room`; whether they do.

        Pinned places, those before them and those that others branched from stay.
        """
        held, most = self.nbytes, min(self.budget_bytes, self.room())
        while held > most:
            tree, node = min(
                ((tree, node) for tree in self._trees.values() for node in tree if may_go(node)),
                key=lambda found: worth(found[1]),
                default=(None, None),
            )
            if tree is None or node is None:
                return False
            self._drop(tree, node)
            held = self.nbytes
        return True

    def leaves(self, owner: str = "") -> list[list[int]]:
        """The tokens of each timeline of `owner`, as far as anything is held of it."""
        return [node.tokens() for node in self._trees.get(owner, ()) if node.is_leaf]

    def forget(self, owner: str) -> None:
        """Let go of all that is held for `owner`."""
        self._trees.pop(owner, None)

    def _nodes(self) -> "list[HeldNode]":
        return [node for tree in self._trees.values() for node in tree]

    def _deepest(self, tokens: Sequence[int], owner: str) -> "tuple[int, HeldNode | None]":
        """Tokens in the tree, and the place to read on from: with logits it may be the last."""
        tree = self._trees.get(owner)
        if tree is None:
            return 0, None
        found = tree.match(tokens)
        usable = (
            node
            for node in reversed(found.nodes)
            if node.held is not None and (node.end < len(tokens) or node.held.logits is not None)
        )
        return found.matched, next(usable, None)

    def _stored(self, tokens: Sequence[int], owner: str, held: int) -> "Session | None":
        """A session from disk, where that leads further than the `held` tokens by enough."""
        while (place := self._further(tokens, owner, held)) is not None:
            assert self.tier is not None
            if (session := self.tier.load(place)) is not None:
                if len(session) == len(tokens) and session.moment().logits is None:
                    session.rewind(len(tokens) - 1)  # reading the last one gives them
                return session
        return None

    def _further(self, tokens: Sequence[int], owner: str, held: int) -> "StoredPlace | None":
        """The place on disk that leads further than the `held` tokens by enough to be read."""
        tier = self.tier
        place = None if tier is None else tier.find(tokens, owner)
        if tier is None or place is None or place.offset < held + tier.least_tokens:
            return None
        return place

    def store(self, line: OpenTimeline, beginnings: Sequence[int] = ()) -> "Writing | None":
        """Write to disk what an open timeline grew by, once its request's answer is whole; what to
        wait for until it lies there."""
        if self.tier is None or line.is_side:
            return None
        return self.tier.store(line.session, line.owner, beginnings, line.reused)

    def _hold(self, line: OpenTimeline, moment: SessionSnapshot, is_beginning: bool) -> None:
        tree = self._trees.setdefault(line.owner, TokenTree())
        node = tree.place(moment.tokens)
        if node.held is None:
            now = self._requests
            node.held = HeldPlace(moment.state, moment.logits, line.line, now, now, line.is_side)
            line.line.tip = max(line.line.tip, node.end)
        elif node.held.logits is None:
            node.held.logits = moment.logits
        node.held.is_beginning = node.held.is_beginning or is_beginning
        self._reach(node, line.is_side)

    def _reach(self, node: "HeldNode", is_side: bool) -> None:
        """A request came to `node`: it and what lies before it count as used, no longer on
        probation unless this was a side request."""
        for one in node.path():
            if one.held is not None and not is_side:
                one.held.reached, one.held.on_probation = self._requests, False

    def _drop(self, tree: TokenTree[HeldPlace], node: "HeldNode") -> None:
        assert node.held is not None
        line = node.held.line
        self.evicted += 1
        before = (one for one in node.path() if one.held is not None and one is not node)
        if node.end == line.tip:
            line.tip = next((one.end for one in before if _is_of(one, line)), 0)
        tree.drop(node)
        if 2 * line.tip < line.tokens and line.tip and not line.is_open:
            self._compact(tree, line)

    def _compact(self, tree: TokenTree[HeldPlace], line: GrowingLine) -> None:
        """Let the places of `line` hold no more than they see: what came after them is gone."""
        held = [node.held for node in tree if node.held is not None and _is_of(node, line)]
        moments = self._engine.caches.compacted([one.state for one in held])
        for one, moment in zip(held, moments, strict=True):
            one.state = moment
        line.nbytes, line.tokens = line.nbytes * line.tip // line.tokens, line.tip


def _is_of(node: "HeldNode", line: GrowingLine) -> bool:
    return node.held is not None and node.held.line is line
