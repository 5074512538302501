"""What drafts tokens: a small protocol, and the drafter that needs no weights.

A draft is a guess. Whatever it is, a reply has the tokens that it has without drafts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

import mlx.core as mx
import numpy as np

from dsv4_mlx.cache import DraftState
from dsv4_mlx.engine.draws import Draws
from dsv4_mlx.engine.generation import Sampler
from dsv4_mlx.errors import UsageError

Features = Any
"""What a model's call gives a drafter beside logits: arrays [1, S, ...], or None."""


DraftIds = mx.array | Sequence[int]
"""Ids [k]: int32 on a device, unevaluated, or numbers."""

Confidence = mx.array | Sequence[float] | None
"""Of drafts: logits [k] of each being right where those before it are; None without a word."""


class Drafter(Protocol):
    """The drafts of one timeline, and what they are made from."""

    def absorb(self, tokens: Sequence[int], features: Features) -> None:
        """The timeline has grown by `tokens`, whose call gave `features`."""
        ...

    def draft(self, anchor: int, count: int, draws: Sequence[Sampler] = ()) -> DraftIds:
        """At most `count` guesses at what follows `anchor`, the token after those absorbed.

        `draws` are those that will be made in the drafts'
        places, where they are known: drawn alike, drafts are right more often. It changes nothing
        that `absorb` gave.
        """
        ...

    def reset(self, tokens: Sequence[int]) -> None:
        """The timeline is `tokens` now, of which nothing was absorbed."""
        ...

    def remember(self) -> Mapping[str, mx.array]:
        """Arrays of fixed size that `resume` goes on from; none where the tokens are enough."""
        ...

    def resume(self, arrays: Mapping[str, mx.array]) -> bool:
        """Stand where `remember` gave these; False where they are another drafter's."""
        ...

    def state(self) -> list[mx.array]:
        """Every array that has to be evaluated for the drafter's state to exist."""
        ...


@runtime_checkable
class ConfidentDrafter(Protocol):
    """A drafter that also says how sure it is."""

    def confidence(self) -> Confidence:
        """Of the drafts made last; unevaluated."""
        ...


class DraftModel(Protocol):
    """What drafts beside a model, and makes the drafter of each timeline."""

    @property
    def name(self) -> str:
        """As a person asks for it."""
        ...

    @property
    def draft_costs(self) -> Sequence[float]:
        """What 0, 1, ... 7 drafts cost to make, in plain tokens, while nobody measured it."""
        ...

    @property
    def needs_features(self) -> bool:
        """Whether the model's calls have to give features."""
        ...

    def new_drafter(self) -> Drafter: ...


MATCHED: Final = 6
"""Tokens that have to be equal before a continuation is a guess; 3 of them harm more than help."""

_BYTES_OF_ROWS: Final = (1.0, 1.30, 1.61, 1.91, 2.21, 2.51, 2.82, 3.12)
"""What passes of V4-Flash read, of one row's bytes: dense weights once, six experts a row."""


def predicted_costs(drafts: "DraftModel") -> tuple[float, ...]:
    """What a pass of 0, 1, ... 7 drafts costs in plain tokens while nobody measured it."""
    return tuple(rows + made for rows, made in zip(_BYTES_OF_ROWS, drafts.draft_costs, strict=True))


class Lookup:
    """Guesses that a timeline goes on as it did where its last tokens were met before."""

    name: ClassVar[str] = "lookup"
    needs_features: ClassVar[bool] = False
    draft_costs: ClassVar[Sequence[float]] = (0.0,) * 8

    def new_drafter(self) -> "LookupDrafter":
        return LookupDrafter()


class LookupDrafter:
    """The tokens of a timeline, searched from their end."""

    def __init__(self) -> None:
        self._tokens = np.empty(1024, np.int32)
        self._count = 0

    def absorb(self, tokens: Sequence[int], features: Features = None) -> None:
        """Keep the tokens."""
        stop = self._count + len(tokens)
        if stop > self._tokens.size:
            grown = np.empty(2 * stop, np.int32)
            grown[: self._count] = self._tokens[: self._count]
            self._tokens = grown
        self._tokens[self._count : stop] = tokens
        self._count = stop

    def draft(self, anchor: int, count: int, draws: Sequence[Sampler] = ()) -> list[int]:
        """What followed the last place with the same `MATCHED` tokens; nothing without one."""
        seen = self._tokens[: self._count]
        recent = [*seen[-(MATCHED - 1) :].tolist(), anchor]
        if len(recent) < MATCHED or count < 1:
            return []
        # Places of the anchor at which the tokens before it are the recent ones too.
        found = np.flatnonzero(seen[MATCHED - 1 :] == anchor) + MATCHED - 1
        for back, token in enumerate(reversed(recent[:-1]), 1):
            found = found[seen[found - back] == token]
        if not found.size:
            return []
        after = int(found[-1]) + 1
        return [int(token) for token in seen[after : after + count]]

    def reset(self, tokens: Sequence[int]) -> None:
        """Keep these tokens alone."""
        self._count = 0
        self.absorb(tokens)

    def remember(self) -> dict[str, mx.array]:
        """The tokens are enough."""
        return {}

    def resume(self, arrays: Mapping[str, mx.array]) -> bool:
        """The tokens are enough."""
        return False

    def state(self) -> list[mx.array]:
        """No arrays."""
        return []


class TimelineDrafts:
    """The drafter of a timeline where there is one, and nothing where there is none."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._drafts: DraftModel | None = None
        self._drafter: Drafter | None = None
        self.confidence: Confidence = None
        """What the drafter says of the drafts that `guess` gave last; unevaluated."""
        self._known = 0  # tokens absorbed since it began cold; those of a resumed state too

    @property
    def known(self) -> int | None:
        """How many of the last tokens the drafter drafts from; None where it needs the text alone
        or nothing drafts."""
        needs = self._drafts is not None and self._drafts.needs_features
        return self._known if needs else None

    def use(self, drafts: DraftModel | None) -> bool:
        """Draft with `drafts` from now on; whether that is another one than before."""
        if drafts is self._drafts:
            return False
        self._drafts, self._drafter = drafts, None if drafts is None else drafts.new_drafter()
        return True

    def absorb(self, tokens: Sequence[int], features: Features) -> None:
        """The timeline has grown; without the features that it needs the drafter begins cold."""
        if self._drafter is None or self._drafts is None:
            return
        if self._drafts.needs_features and features is None:  # read while nothing was to draft
            self._known = 0
            self._drafter.reset(())
            return
        self._known += len(tokens)
        self._drafter.absorb(tokens, features)

    def follow(self, tokens: Sequence[int], state: DraftState | None) -> None:
        """The timeline is another one: go on from what was known of it, else begin cold."""
        self._known = 0
        if self._drafter is None or self._drafts is None:
            return
        fits = state is not None and (state.drafter, state.offset) == (
            self._drafts.name, len(tokens),
        )  # fmt: skip
        if fits and state is not None and self._drafter.resume(state.arrays):
            self._known = len(tokens)
        else:
            self._drafter.reset(tokens)

    def remember(self, offset: int, before: DraftState | None) -> DraftState | None:
        """What is known of a timeline of `offset` tokens; `before` where nothing drafts now."""
        if self._drafter is None or self._drafts is None:
            return before if before is not None and before.offset == offset else None
        arrays = self._drafter.remember()
        return DraftState(self._drafts.name, offset, arrays) if arrays else None

    def guess(self, anchor: int, count: int, draws: Draws) -> DraftIds:
        """At most `count` drafts, those on a device unevaluated; `anchor` is drawn of `draws`."""
        self.confidence = None
        if self._drafter is None or count < 1:
            return ()
        guessed = self._drafter.draft(anchor, count, draws.ahead(count))
        if isinstance(self._drafter, ConfidentDrafter):
            self.confidence = self._drafter.confidence()
        return guessed if isinstance(guessed, mx.array) else self.checked(guessed)

    def checked(self, drafts: DraftIds) -> list[int]:
        """The ids; UsageError for one that is no token."""
        found = ids_of(drafts)
        wrong = next((one for one in found if not 0 <= one < self._vocab_size), None)
        if wrong is not None:
            raise UsageError(
                f"expected drafts below {self._vocab_size}, the size of the vocabulary, but found "
                f"{wrong}; the drafter is another model's."
            )
        return found

    def state(self) -> list[mx.array]:
        """Every array that has to be evaluated."""
        return [] if self._drafter is None else self._drafter.state()


def confidence_of(found: Confidence) -> list[float]:
    """Confidence logits as numbers, none without a word; those on a device are waited for."""
    logits: Any = found.tolist() if isinstance(found, mx.array) else found
    return [float(one) for one in logits or ()]


def ids_of(drafts: DraftIds) -> list[int]:
    """Drafts as numbers; those on a device are waited for."""
    ids: Any = drafts.tolist() if isinstance(drafts, mx.array) else drafts
    return [int(one) for one in ids]
