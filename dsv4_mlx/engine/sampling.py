"""How tokens are drawn, as numbers: the settings of sampling and the range of each.

The names are transformers'. Everything that takes such a number, the files and the command line
among them, asks the same ranges, and what is done with it stands in `generation`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import as_double, shown

MOST_WHOLE: Final = (1 << 63) - 1
"""The largest whole number that files and other programs carry."""


@dataclass(frozen=True)
class Range:
    """From `least` on, or above it, up to `most`; never infinite, never a boolean."""

    least: float
    most: float = math.inf
    above: bool = False
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        number = as_double(value)
        if number is None or (self.whole and not isinstance(value, int)):
            return False
        if self.whole and _is_too_large(value):
            return False
        low_enough = number > self.least if self.above else number >= self.least
        return low_enough and number <= self.most

    def __str__(self) -> str:
        """What fits, as in "expected a number from 0 on"."""
        kind = "a whole number" if self.whole else "a number"
        if self.above:
            return f"{kind} above {self.least:g}" + self._up_to(", at most ")
        return f"{kind} from {self.least:g}" + (self._up_to(" to ") or " on")

    def expected(self, found: object) -> str:
        """What fits, for a sentence about `found`, which does not."""
        return bounded(str(self), found)

    def read(self, text: str) -> float:
        """The number that `text` spells; ValueError for one outside, or none."""
        value = _whole_in(text) if self.whole else float(text)
        if value is None or value not in self:
            raise ValueError(text)
        return value

    def _up_to(self, words: str) -> str:
        return "" if math.isinf(self.most) else f"{words}{self.most:g}"


def bounded(expected: str, found: object) -> str:
    """`expected` for a sentence about `found`: "a whole number from 0 on" ends at `MOST_WHOLE`,
    which is only told where `found` is above it."""
    if "whole number" in expected and _is_too_large(found):
        without_end = expected.removesuffix(" on")
        return f"{without_end} to {MOST_WHOLE}" if without_end != expected else expected
    return expected


def _whole_in(text: str) -> int | None:
    """The whole number that `text` spells, cut where it is far too large; None for no such text."""
    return int(text.lstrip("0")[:20] or "0") if text.isascii() and text.isdigit() else None


def _is_too_large(found: object) -> bool:
    """Whether it is a whole number, or spells one, that 63 bits do not hold."""
    number = _whole_in(found) if isinstance(found, str) else found
    return isinstance(number, int) and number > MOST_WHOLE


RANGES: Final[Mapping[str, Range]] = {
    "temperature": Range(0),
    "top_p": Range(0, 1, above=True),
    "top_k": Range(0, whole=True),
    "min_p": Range(0, 1),
    "repetition_penalty": Range(0, above=True),
}


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; UsageError for a value outside its range.

    Temperature 0 takes the likeliest token. `top_k` 0, `top_p` 1, `min_p` 0 and
    `repetition_penalty` 1 change nothing. `seed` None is a new one every time.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name in RANGES:
            check(name, getattr(self, name))


def check(name: str, value: float) -> None:
    """UsageError for a value of the setting `name` outside its range."""
    _check(name, value, RANGES[name])


def _check(name: str, value: float, allowed: Range) -> None:
    if value not in allowed:
        raise UsageError(f"{name} must be {allowed.expected(value)}, got {shown(value)}.")


SHIFT_RANGES: Final[Mapping[str, Range]] = {
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
}
BIASES: Final = Range(-100, 100)
TOKEN_IDS: Final = Range(0, whole=True)


@dataclass(frozen=True)
class Shifts:
    """What is added to logits, in logits, as OpenAI's interface has it; UsageError outside ranges.

    A token that was generated `count` times loses `presence_penalty` once and `frequency_penalty`
    so often, and `logit_bias` is what is added to a token, by its id. All 0 is no change.
    """

    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in SHIFT_RANGES.items():
            _check(name, getattr(self, name), allowed)
        for token, bias in self.logit_bias:
            _check("A token id of logit_bias", token, TOKEN_IDS)
            _check(f"logit_bias of token {token}", bias, BIASES)

    @property
    def penalises(self) -> bool:
        """Whether the tokens before change anything."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0

    def check_tokens(self, vocabulary: int) -> None:
        """UsageError for a token that a model of so many does not have."""
        for token, _ in self.logit_bias:
            if token >= vocabulary:
                raise UsageError(
                    f"logit_bias takes token ids from 0 to {vocabulary - 1}, got {token}."
                )


NO_SHIFTS: Final = Shifts()
