"""What a drafter says of its own drafts, and how far that was true.

A confidence is the logit of a draft being right where those before it are. It is learned at
temperature 1 and ranks better than it counts, so each place of a block has a scale (one over a
temperature), fitted to what was drawn: a Newton step on the likelihood for every draft that met
its token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LEAST: Final = 64
"""Drafts of a place that met their token before its confidences are used."""
_KEPT, _PRIOR, _STEP = 1 - 1 / 256, 4.0, 0.1
SMALLEST, LARGEST = 1 / 16, 16.0


@dataclass
class ConfidenceScale:
    """What the confidence logits of one place are multiplied by, fitted to `count` drafts."""

    scale: float = 1.0
    count: int = 0
    curvature: float = 0.0

    def add(self, logit: float, right: bool) -> None:
        """A draft of that confidence was right or wrong."""
        scaled = self.scale * logit
        likely = _sigmoid(scaled)
        self.curvature = _KEPT * self.curvature + likely * (1 - likely) * scaled * scaled
        step = (likely - right) * scaled / (self.curvature + _PRIOR)
        scale = self.scale * math.exp(-max(-_STEP, min(step, _STEP)))
        self.scale = max(SMALLEST, min(scale, LARGEST))
        self.count += 1

    @property
    def is_known(self) -> bool:
        """Whether enough drafts told."""
        return self.count >= LEAST

    def likely(self, logit: float) -> float:
        """How likely a draft of that confidence is right."""
        return _sigmoid(self.scale * logit)


def most_worth(
    likely: Sequence[float], costs: Sequence[float], plain: float, least: int = 0
) -> int:
    """The number of drafts, at least `least`, that gives most tokens for what a pass costs.

    `likely[i]` is of draft i where those before it are right; `costs` are of passes of 1, 2, ...
    drafts, `plain` of one that makes no draft, in any unit. What making drafts costs is spent. A
    pass that verifies none of them is as much cheaper than one of 1 as that is than one of 2;
    with costs of 1 alone nobody knows, and it is verified. Of equals the larger number.
    """
    if len(costs) < 2:
        return len(likely)
    expected, reached, gains = 1.0, 1.0, [1.0 / max(plain, 2 * costs[0] - costs[1])]
    for one, cost in zip(likely, costs, strict=False):
        reached *= one
        expected += reached
        gains.append(expected / cost)
    return max(range(least, len(gains)), key=lambda count: (gains[count], count))


def _sigmoid(x: float) -> float:
    if x < 0:
        return 1 - _sigmoid(-x)
    return 1 / (1 + math.exp(-x))
