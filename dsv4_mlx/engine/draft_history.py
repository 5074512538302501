"""What an engine knows of a drafter: how long passes take, and how often drafts are right."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal, TypeVar, get_args

from dsv4_mlx.engine.draft_confidence import LARGEST, SMALLEST, ConfidenceScale

Regime = Literal["thinking", "answer", "tool"]

MOST_DRAFTS: Final = 7
"""Drafts of one pass: with the token before them they are the 8 rows that keep their bits."""
MOST_KEPT, TRUSTED = 9, 3
"""Passes whose times are kept, and how many of them make a median that is used."""


@dataclass(frozen=True)
class PassPlan:
    """What the next pass does: `drafts` to make, and whether they are verified or shadows."""

    drafts: int = 0
    verify: bool = False


@dataclass(frozen=True)
class Pass:
    """What a pass of the model did.

    It began at `context` tokens and gave `tokens` of them in `seconds`; `drafted` were verified and
    `accepted` of them right. `shadow`: drafts were made beside a plain token. `judged` drafts met
    the token drawn in their place, all that could by default: a reply may end before.
    """

    context: int
    regime: Regime
    tokens: int
    seconds: float
    drafted: int = 0
    accepted: int = 0
    shadow: bool = False
    judged: int | None = None


@dataclass(frozen=True)
class DraftUse:
    """What drafts did for a reply, whose tokens are `passes + accepted`.

    A pass is a call of the model that gave tokens: a plain one gives one, and one that verifies
    drafts gives one more for each that is right. `saved_s` is negative where drafting lost.
    """

    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    saved_s: float = 0.0

    @property
    def tokens_per_pass(self) -> float | None:
        """Tokens that a call of the model gave; None where none did."""
        return (self.passes + self.accepted) / self.passes if self.passes else None


@dataclass
class Acceptance:
    """How often the i-th draft is right where those before it were, as moving means."""

    means: list[float] = field(default_factory=lambda: [0.0] * MOST_DRAFTS)
    counts: list[int] = field(default_factory=lambda: [0] * MOST_DRAFTS)

    def add(self, drafted: int, accepted: int, rate: float) -> None:
        """Drafts of which the first `accepted` were right and the next one, if any, wrong."""
        for place in range(min(drafted, accepted + 1)):
            self.counts[place] += 1
            weight = max(rate, 1 / self.counts[place])
            self.means[place] += weight * ((place < accepted) - self.means[place])

    def expected(self, drafts: int) -> float:
        """Tokens that a pass of so many drafts gives; an unknown place is as good as the last."""
        total, reached, last = 1.0, 1.0, 0.0
        for place in range(drafts):
            last = self.means[place] if self.counts[place] else last
            reached *= last
            total += reached
        return total


@dataclass
class Timings:
    """Seconds of the latest passes at one context, by their drafts; 0 is a plain token."""

    seconds: dict[int, deque[float]] = field(default_factory=dict)
    medians: dict[int, float] = field(default_factory=dict)

    def add(self, drafts: int, seconds: float, kept: int = MOST_KEPT) -> None:
        """One more; of the older ones as many stay as make `kept` with it."""
        found = self.seconds.setdefault(drafts, deque(maxlen=MOST_KEPT))
        while len(found) >= kept:
            found.popleft()
        found.append(seconds)
        self.medians[drafts] = median(found)

    def of(self, drafts: int, least: int = TRUSTED) -> float | None:
        """The median; None for fewer than `least`."""
        return self.medians[drafts] if len(self.seconds.get(drafts, ())) >= least else None


@dataclass
class DraftHistory:
    """What an engine knows of a drafter: times by context, acceptances by regime, and how far its
    confidences were true, by place."""

    timings: dict[int, Timings] = field(default_factory=dict)
    acceptance: dict[Regime, Acceptance] = field(default_factory=dict)
    confidence: dict[int, ConfidenceScale] = field(default_factory=dict)

    @property
    def believes_confidence(self) -> bool:
        """Whether enough drafts told how far confidences are true."""
        return self._scales()[0].is_known

    def likely(self, regime: Regime, confidence: Sequence[float]) -> list[float] | None:
        """How likely drafts of these confidence logits are right, each where those before it are;
        a place that is not known is as ever. None while not even the first is known."""
        scales = self._scales()
        if not confidence or not scales[0].is_known:
            return None
        usual = self.acceptance.setdefault(regime, Acceptance()).means
        return [
            scale.likely(logit) if scale.is_known else mean
            for scale, logit, mean in zip(scales, confidence, usual, strict=False)
        ]

    def confided(self, confidence: Sequence[float], judged: int, accepted: int) -> None:
        """Drafts of these confidence logits: `judged` met their token, `accepted` were right."""
        for place, (scale, logit) in enumerate(zip(self._scales(), confidence, strict=False)):
            if place < judged:
                scale.add(logit, place < accepted)

    def _scales(self) -> list[ConfidenceScale]:
        return [self.confidence.setdefault(n, ConfidenceScale()) for n in range(MOST_DRAFTS)]

    def as_record(self) -> dict[str, Any]:
        """As JSON data, for a later start on the same machine."""
        return {
            "seconds": {
                str(bucket): {str(k): list(found) for k, found in timings.seconds.items()}
                for bucket, timings in self.timings.items()
            },
            "right": {
                regime: {"means": found.means, "counts": found.counts}
                for regime, found in self.acceptance.items()
            },
            "sure": {
                str(place): [found.scale, found.count, found.curvature]
                for place, found in self.confidence.items()
            },
        }

    @classmethod
    def of_record(cls, record: Any) -> "DraftHistory":
        """What `as_record` gave; an empty one for anything else, since all is measured again."""
        history = cls()
        try:
            for bucket, by_drafts in record["seconds"].items():
                timings = history.timings.setdefault(int(bucket), Timings())
                for drafts, seconds in by_drafts.items():
                    for one in seconds:
                        timings.add(_within(int(drafts), MOST_DRAFTS), _positive(one))
            for regime, found in record["right"].items():
                if regime not in get_args(Regime):
                    raise ValueError(regime)
                means = [_within(float(mean), 1.0) for mean in found["means"]]
                counts = [_within(int(count), 1 << 62) for count in found["counts"]]
                if len(means) != MOST_DRAFTS or len(counts) != MOST_DRAFTS:
                    raise ValueError(len(means))
                history.acceptance[regime] = Acceptance(means, counts)
            for place, (scale, count, curvature) in record.get("sure", {}).items():
                history.confidence[_within(int(place), MOST_DRAFTS - 1)] = ConfidenceScale(
                    max(SMALLEST, _within(float(scale), LARGEST)),
                    _within(int(count), 1 << 62),
                    _within(float(curvature), 1e9),
                )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            return cls()
        return history


_Number = TypeVar("_Number", int, float)


def _within(number: _Number, most: _Number) -> _Number:
    if not 0 <= number <= most:
        raise ValueError(number)
    return number


def _positive(seconds: float) -> float:
    if not 0 < float(seconds) < math.inf:
        raise ValueError(seconds)
    return float(seconds)
