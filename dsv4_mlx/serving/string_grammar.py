"""Strings as schemas describe them: `pattern`, else `format`, else `minLength` and `maxLength`.

Patterns are read as far as they are regular and about characters: classes, groups, alternatives,
counts, and anchors at the ends of an alternative. Lookarounds, references back, word boundaries,
flags and classes of Unicode are not; nor is more than one of these keywords held to at once.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from dsv4_mlx.serving.character_grammar import CharacterSet, Letters
from dsv4_mlx.serving.grammar import Either, GrammarItem, Items, Repeated

_MOST_REPEATS: Final = 1000
_MOST_PLACES: Final = 40_000
_MOST_NAMED: Final = 512
"""Characters beyond ASCII that one class may name."""
_DAY = r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_NAME = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_BYTE = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_FORMATS: Final = {
    "date": f"^{_DAY}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DAY}T{_TIME}$",
    "uuid": r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    "email": rf"^[A-Za-z0-9._%+-]{{1,64}}@({_NAME}\.){{1,8}}{_NAME}$",
    "hostname": rf"^{_NAME}(\.{_NAME}){{0,8}}$",
    "ipv4": rf"^{_BYTE}(\.{_BYTE}){{3}}$",
    "uri": r"^[A-Za-z][A-Za-z0-9+.-]{0,30}:[!#-;=?-\[\]_a-z~]+$",
}
_DIGIT = CharacterSet.of(range(ord("0"), ord("9") + 1))
_WORD = CharacterSet.of(map(ord, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789"))
_SPACE = CharacterSet.of(map(ord, " \t\n\r\f\v"))
_NO_LINE_END = CharacterSet.of(map(ord, "\n\r"))
_CLASSES: Final = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}


def string_items(content: Mapping[str, Any], letters: Letters) -> Items:
    """The strings that a schema allows, written in `letters`."""
    if (found := _described(content, letters)) is not None:
        return found
    least, most = (_count(content.get(name)) for name in ("minLength", "maxLength"))
    return (Repeated(letters.any, least or 0, most),)


def unheld_of_strings(content: Mapping[str, Any], letters: Letters) -> list[str]:
    """Keywords about strings that `string_items` does not hold to."""
    listed = [name for name in ("pattern", "format", "minLength", "maxLength") if name in content]
    for name in ("pattern", "format"):
        if _described({name: content.get(name)}, letters) is not None:
            return [other for other in listed if other != name]
    return [name for name in listed if name in ("pattern", "format")]


def _described(content: Mapping[str, Any], letters: Letters) -> Items | None:
    patterns = (content.get("pattern"), _FORMATS.get(str(content.get("format"))))
    found = (pattern_items(one, letters) for one in patterns if isinstance(one, str))
    return next((items for items in found if items is not None), None)


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def pattern_items(pattern: str, letters: Letters) -> Items | None:
    """The strings in which `pattern` is found; None for a pattern that is not read."""
    try:
        items = _Pattern(pattern, letters).whole()
        return items if _size(items) <= _MOST_PLACES else None
    except (_UnreadPatternError, RecursionError):
        return None


def _size(items: Items) -> int:
    """How many places in a string the items tell apart, counts within counts multiplied."""
    found = 0
    for item in items:
        if isinstance(item, Repeated):
            found += _size((item.item,)) * max(1, item.least, item.most or 0)
        elif isinstance(item, Either):
            found += sum(map(_size, item.choices))
        else:
            found += 1
    return found


class _UnreadPatternError(ValueError):
    """The pattern says something that is not read here."""


class _Pattern:
    """A pattern and how far it is read."""

    def __init__(self, pattern: str, letters: Letters) -> None:
        self._left, self._letters = list(reversed(pattern)), letters

    def whole(self) -> Items:
        ways = self._alternatives(self._anchored)
        if self._left:
            raise _UnreadPatternError
        return ways

    def _alternatives(self, read: Callable[[], Items]) -> Items:
        ways = [read()]
        while self._takes("|"):
            ways.append(read())
        return ways[0] if len(ways) == 1 else (Either(tuple(ways)),)

    def _anchored(self) -> Items:
        """An alternative of the whole, with what may stand before and after it."""
        anything = Repeated(self._letters.any)
        before = () if self._takes("^") else (anything,)
        items = self._sequence()
        after = () if self._takes("$") else (anything,)
        if self._left and self._left[-1] != "|":
            raise _UnreadPatternError
        return (*before, *items, *after)

    def _sequence(self) -> Items:
        parts: list[Items] = []
        while self._left and self._left[-1] not in "|)$^":
            parts.append(self._counted(self._atom()))
        return tuple(chain.from_iterable(parts))

    def _atom(self) -> Items:
        match character := self._next():
            case "(":
                if self._takes("?") and not self._takes(":"):
                    raise _UnreadPatternError
                inside = self._alternatives(self._sequence)
                if not self._takes(")"):
                    raise _UnreadPatternError
                return inside
            case "[":
                return (self._one(self._class()),)
            case ".":
                return (self._one(_NO_LINE_END.inverted()),)
            case "\\":
                return (self._one(self._escape()),)
            case "*" | "+" | "?" | "{":
                raise _UnreadPatternError
        return (self._one(CharacterSet.of([ord(character)])),)

    def _counted(self, items: Items) -> Items:
        counts: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        found = next((mark for mark in (*counts, "{") if self._takes(mark)), None)
        if found is None:
            return items
        least, most = self._bounds() if found == "{" else counts[found]
        self._takes("?")  # which of the matches is found makes no difference
        item = items[0] if len(items) == 1 else Either((items,))
        return (Repeated(item, least, most),)

    def _bounds(self) -> tuple[int, int | None]:
        written = ""
        while not self._takes("}"):
            written += self._next()
        first, comma, last = written.partition(",")
        if not first.isdecimal() or not (last.isdecimal() or not last):
            raise _UnreadPatternError
        least, most = int(first), int(last) if last else None if comma else int(first)
        if max(least, most or 0) > _MOST_REPEATS or (most is not None and most < least):
            raise _UnreadPatternError
        return least, most

    def _class(self) -> CharacterSet | None:
        is_inverted, found = self._takes("^"), CharacterSet(frozenset())
        while not self._takes("]"):
            first = self._member()
            if len(self._left) > 1 and self._left[-1] == "-" and self._left[-2] != "]":
                self._next()
                first = _range(first, self._member())
            found = found.joined(first)
        return found.inverted() if is_inverted else found

    def _member(self) -> CharacterSet:
        character = self._next()
        return self._escape() if character == "\\" else CharacterSet.of([ord(character)])

    def _escape(self) -> CharacterSet:
        character = self._next()
        if character in _CLASSES:
            return _CLASSES[character]
        if (known := _CLASSES.get(character.lower())) is not None:
            found = known.inverted()
            assert found is not None
            return found
        if character in ("x", "u"):
            digits = "".join(self._next() for _ in range(2 if character == "x" else 4))
            return CharacterSet.of([_code_point(digits)])
        if character.isalnum() and character not in _ESCAPES:
            raise _UnreadPatternError
        return CharacterSet.of([ord(_ESCAPES.get(character, character))])

    def _one(self, characters: CharacterSet | None) -> GrammarItem:
        if characters is None or len(characters.others) > _MOST_NAMED:
            raise _UnreadPatternError
        if characters == CharacterSet(frozenset()):
            raise _UnreadPatternError  # nothing fits
        return self._letters.of(characters)

    def _takes(self, character: str) -> bool:
        if not self._left or self._left[-1] != character:
            return False
        self._left.pop()
        return True

    def _next(self) -> str:
        if not self._left:
            raise _UnreadPatternError
        return self._left.pop()


def _code_point(digits: str) -> int:
    try:
        point = int(digits, 16)
    except ValueError:
        raise _UnreadPatternError from None
    if 0xD800 <= point <= 0xDFFF:
        raise _UnreadPatternError
    return point


def _range(first: CharacterSet, last: CharacterSet) -> CharacterSet:
    ends: Sequence[list[int]] = [sorted(one.ascii | one.others) for one in (first, last)]
    if any(len(one) != 1 for one in ends) or not 0 <= ends[1][0] - ends[0][0] <= 0x10000:
        raise _UnreadPatternError
    points = range(ends[0][0], ends[1][0] + 1)
    if points.stop - max(points.start, 0x80) > _MOST_NAMED or 0xD800 in points:
        raise _UnreadPatternError
    return CharacterSet.of(points)
