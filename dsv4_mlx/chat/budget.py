"""How long a model may think.

After `tokens` tokens of reasoning the next end of a sentence, line or paragraph closes it (soft).
If none comes within another quarter of the budget, at least 32 tokens, it is closed where it
stands (hard).
"""

import re
from dataclasses import dataclass
from typing import Literal

from dsv4_mlx.errors import UsageError

GRACE_TOKENS = 32
GRACE_SHARE = 4
TAIL = 16
"""Characters of reasoning that `due` looks at."""

# A full stop after a digit may be inside a number, and one before a letter inside a name: with the
# text so far only white space tells, and tokens rarely end in it. Letters are the safer guess.
_NATURAL_END = re.compile(
    r"""(?: \n\s* | [.!?…]["'”’)\]*`]*\s+ | [^\W\d_]["'”’)\]*`]*[.!?…]["'”’)\]*`]*
        | [。！？…][”’」』）]* )\Z""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class ReasoningBudget:
    """At most `tokens` of reasoning, plus a grace for a natural end; None is no limit."""

    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 0:
            raise UsageError(f"A reasoning budget must be 0 or more tokens, got {self.tokens}.")

    @property
    def hard_limit(self) -> int | None:
        """Tokens after which reasoning ends wherever it stands."""
        if self.tokens is None:
            return None
        return self.tokens + max(GRACE_TOKENS, self.tokens // GRACE_SHARE)

    def due(self, used: int, tail: str) -> Literal["soft", "hard"] | None:
        """How reasoning of `used` tokens that ends with `tail` has to be closed now, if at all."""
        if self.tokens is None or self.hard_limit is None or used < self.tokens:
            return None
        if not tail.strip() or _NATURAL_END.search(tail):
            return "soft"
        return "hard" if used >= self.hard_limit else None
