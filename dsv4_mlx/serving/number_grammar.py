"""Numbers of JSON, of at most 16 digits before the point, within whole bounds."""

import math
from collections.abc import Mapping
from typing import Any, Final

from dsv4_mlx.serving.grammar import Either, Items, OneSymbol, Repeated, either, optional, text

_MOST_DIGITS: Final = 16
_DIGIT = OneSymbol(frozenset(b"0123456789"))
_ONE_TO_NINE = OneSymbol(frozenset(b"123456789"))
_DIGITS = Repeated(_DIGIT, 0, _MOST_DIGITS - 1)
INTEGER: Final[Items] = (optional(text("-")), either(text("0"), (_ONE_TO_NINE, _DIGITS)))
_EXPONENT = (OneSymbol(frozenset(b"eE")), optional(OneSymbol(frozenset(b"+-"))), _DIGIT)
NUMBER: Final[Items] = (
    *INTEGER,
    optional(text("."), _DIGIT, _DIGITS),
    optional(*_EXPONENT, optional(_DIGIT)),
)
_ZEROS = Repeated(text("0"), 0, _MOST_DIGITS - 2)
_NO_FRACTION: Final = optional(text("."), text("0"), _ZEROS)
_FRACTION: Final = optional(text("."), _DIGIT, _DIGITS)
_MORE_THAN_NONE: Final[Items] = (text("."), _ZEROS, _ONE_TO_NINE, _DIGITS)
_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

Bound = tuple[int, bool] | None
"""A whole number, and whether it is outside itself; None for no bound."""


def number_items(kind: str, content: Mapping[str, Any]) -> Items:
    """The numbers of type `kind`, integer or number, that a schema allows."""
    bounds = None if unheld_of_numbers(content, kind) else _bounds(content, kind)
    if bounds is None or bounds == (None, None):
        return INTEGER if kind == "integer" else NUMBER
    return (Either(tuple(_ways(kind, *bounds))),)


def unheld_of_numbers(content: Mapping[str, Any], kind: str = "number") -> list[str]:
    """Keywords about numbers that `number_items` does not hold to: bounds that are no whole
    numbers, unless an integer is asked for, and all of those between which there is nothing."""
    listed = [name for name in _BOUNDS if name in content]
    bounds = _bounds(content, kind)
    return listed if listed and (bounds is None or not _ways(kind, *bounds)) else []


def _bounds(content: Mapping[str, Any], kind: str) -> tuple[Bound, Bound] | None:
    """The lower and the upper bound; None for some that are not held to."""
    found: list[Bound] = []
    for name, sign in (("minimum", 1), ("maximum", -1)):
        inside, outside = content.get(name), content.get(f"exclusive{name.capitalize()}")
        if outside is True:  # as older schemas say it
            inside, outside = None, inside
        asked = ((inside, False), (outside, True))
        ends = [(one, is_out) for end, is_out in asked if (one := _number(end)) is not None]
        if not ends:
            found.append(None)
            continue
        value, is_out = max(ends, key=lambda end: (sign * end[0], end[1]))
        if kind == "integer":
            whole = math.ceil(value) if sign > 0 else math.floor(value)
            value, is_out = whole + sign * (is_out and whole == value), False
        elif value != int(value):
            return None
        found.append(None if abs(value) >= 10**_MOST_DIGITS else (int(value), is_out))
    return found[0], found[1]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number that no double holds
        return None


def _ways(kind: str, least: Bound, most: Bound) -> list[Items]:
    """What lies between the bounds: below zero, and from there on."""
    between = _whole_between if kind == "integer" else _between
    ways: list[Items] = []
    if least is None or least[0] < 0:
        nearest: Bound = (1, False) if kind == "integer" else (0, True)
        if most is not None and most[0] < 0:
            nearest = (-most[0], most[1])
        furthest = None if least is None else (-least[0], least[1])
        ways += [(text("-"), *way) for way in between(nearest, furthest)]
    if most is None or most[0] >= 0:
        ways += between(least if least is not None and least[0] >= 0 else (0, False), most)
    return ways


def _whole_between(least: Bound, most: Bound) -> list[Items]:
    """Whole numbers from zero on; the bounds are inside themselves."""
    assert least is not None
    return _digits(least[0], None if most is None else most[0])


def _between(least: Bound, most: Bound) -> list[Items]:
    """Numbers from zero on, without exponents."""
    assert least is not None
    low, is_out = least
    last = None if most is None else most[0] - 1
    ways = [(*way, _FRACTION) for way in _digits(low + is_out, last)]
    if is_out and (most is None or low < most[0]):
        ways.append((text(str(low)), *_MORE_THAN_NONE))
    if most is not None and not most[1] and (low < most[0] or (low == most[0] and not is_out)):
        ways.append((text(str(most[0])), _NO_FRACTION))
    return ways


def _digits(least: int, most: int | None) -> list[Items]:
    """Whole numbers from `least`, 0 or more, to `most`, by how many digits they have."""
    last = 10**_MOST_DIGITS - 1 if most is None else most
    ways: list[Items] = []
    for length in range(len(str(least)), len(str(max(last, 0))) + 1):
        low = max(least, 10 ** (length - 1) if length > 1 else 0)
        high = min(last, 10**length - 1)
        if low <= high:
            ways.append(_same_length(str(low), str(high)))
    return ways


def _same_length(low: str, high: str) -> Items:
    """Digits from `low` to `high`, which have as many."""
    length = len(low)
    if not length:
        return ()
    if low == "0" * length and high == "9" * length:
        return (Repeated(_DIGIT, length, length),)
    if low[0] == high[0]:
        return (text(low[0]), *_same_length(low[1:], high[1:]))
    rest = length - 1
    ways: list[Items] = [(text(low[0]), *_same_length(low[1:], "9" * rest))]
    if middle := frozenset(range(ord(low[0]) + 1, ord(high[0]))):
        ways.append((OneSymbol(middle), Repeated(_DIGIT, rest, rest)))
    ways.append((text(high[0]), *_same_length("0" * rest, high[1:])))
    return (Either(tuple(ways)),)
