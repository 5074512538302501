"""Characters as items of grammars: as they are, and as they stand inside the quotes of JSON."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dsv4_mlx.serving.grammar import Either, GrammarItem, Items, OneSymbol, either, text

_ASCII: Final = frozenset(range(0x80))


def _bytes(first: int, last: int) -> OneSymbol:
    return OneSymbol(frozenset(range(first, last + 1)))


_TAIL = _bytes(0x80, 0xBF)
_BEYOND_ASCII: Final = (
    (_bytes(0xC2, 0xDF), _TAIL),
    (_bytes(0xE0, 0xE0), _bytes(0xA0, 0xBF), _TAIL),
    (_bytes(0xE1, 0xEC), _TAIL, _TAIL),
    (_bytes(0xED, 0xED), _bytes(0x80, 0x9F), _TAIL),
    (_bytes(0xEE, 0xEF), _TAIL, _TAIL),
    (_bytes(0xF0, 0xF0), _bytes(0x90, 0xBF), _TAIL, _TAIL),
    (_bytes(0xF1, 0xF3), _TAIL, _TAIL, _TAIL),
    (_bytes(0xF4, 0xF4), _bytes(0x80, 0x8F), _TAIL, _TAIL),
)
"""Characters of more than one byte (RFC 3629)."""
CHARACTER: Final = Either(((_bytes(0, 0x7F),), *_BEYOND_ASCII))
"""Any character."""

_PLAIN: Final = frozenset(range(0x20, 0x80)) - set(b'"\\')
_HEX = OneSymbol(frozenset(b"0123456789abcdefABCDEF"))
_ESCAPED = either(
    (text("\\"), OneSymbol(frozenset(b'"\\/bfnrt'))),
    # No half of a surrogate pair stands alone.
    (text("\\u"), OneSymbol(frozenset(b"0123456789abcefABCEF")), _HEX, _HEX, _HEX),
    (text("\\u"), OneSymbol(frozenset(b"dD")), OneSymbol(frozenset(b"01234567")), _HEX, _HEX),
)


@dataclass(frozen=True)
class CharacterSet:
    """Some characters: of ASCII these, and beyond it either these or all of them."""

    ascii: frozenset[int]
    others: frozenset[int] = frozenset()
    has_all_others: bool = False

    @classmethod
    def of(cls, points: Iterable[int]) -> "CharacterSet":
        """These code points."""
        listed = frozenset(points)
        return cls(listed & _ASCII, listed - _ASCII)

    def inverted(self) -> "CharacterSet | None":
        """All characters but these; None for some that are named beyond ASCII."""
        if self.others:
            return None
        return CharacterSet(_ASCII - self.ascii, has_all_others=not self.has_all_others)

    def joined(self, other: "CharacterSet") -> "CharacterSet":
        """These and those."""
        return CharacterSet(
            self.ascii | other.ascii,
            self.others | other.others,
            self.has_all_others or other.has_all_others,
        )


@dataclass(frozen=True)
class Letters:
    """A way to write characters: `any` of them, and by `plain` which of ASCII stand as they are;
    the others are escaped as JSON does."""

    any: GrammarItem
    plain: frozenset[int]

    def of(self, characters: CharacterSet) -> GrammarItem:
        """One of these characters."""
        plain = characters.ascii & self.plain
        ways: list[Items] = [(OneSymbol(plain),)] if plain else []
        for point in sorted(characters.ascii - self.plain):
            ways.append((text(json.dumps(chr(point))[1:-1]),))
        if characters.has_all_others:
            ways += _BEYOND_ASCII
        else:
            ways += [(text(chr(point)),) for point in sorted(characters.others)]
        return ways[0][0] if len(ways) == 1 and len(ways[0]) == 1 else Either(tuple(ways))


BARE: Final = Letters(CHARACTER, _ASCII)
"""Characters as they are."""
QUOTED: Final = Letters(Either(((OneSymbol(_PLAIN),), (_ESCAPED,), *_BEYOND_ASCII)), _PLAIN)
"""Characters between the quotes of a JSON string."""
