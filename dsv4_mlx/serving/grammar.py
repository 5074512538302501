"""Grammars over bytes and control tokens, followed one symbol after the other.

A symbol is a byte, 0 to 255, or a control token, 256 and its id: so text that spells a control
token is never one. A grammar is made of items; what is left of it is a stack of items, and a state
is the set of stacks that are possible after what was read. States are values: nothing is undone
when a token turns out to be none that fits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, Union

from dsv4_mlx.serving.words import Members, Word, WordList, Words

FIRST_CONTROL: Final = 256
"""The symbol of control token id 0."""

MOST_KNOWN: Final = 1 << 12
"""States of one answer whose followers are kept, some 600 bytes each."""


@dataclass(frozen=True)
class Symbols:
    """These symbols, one after the other."""

    symbols: tuple[int, ...]


@dataclass(frozen=True)
class OneSymbol:
    """One of these symbols."""

    symbols: frozenset[int]


@dataclass(frozen=True, eq=False)
class Either:
    """One of these sequences. Two are never the same, so that comparing stacks is cheap."""

    choices: "tuple[Items, ...]"


@dataclass(frozen=True)
class Repeated:
    """An item `least` to `most` times; without `most` as often as one likes."""

    item: "GrammarItem"
    least: int = 0
    most: int | None = None


@dataclass(frozen=True)
class GrammarRule:
    """A sequence that is made when it is needed, so that it may hold itself; `name` tells it from
    others of its grammar."""

    name: str
    make: "Callable[[], Items]" = field(compare=False, repr=False)
    """Gives the same sequence each time."""


GrammarItem: TypeAlias = Union[  # noqa: UP007
    Symbols, OneSymbol, Either, Repeated, Members, Words, GrammarRule
]
Items: TypeAlias = tuple[GrammarItem, ...]
Stack: TypeAlias = Items
"""What has to follow; empty at the end."""


@dataclass(frozen=True)
class GrammarState:
    """What may follow what was read: nothing at all where there is no stack."""

    stacks: frozenset[Stack]
    """Each begins with symbols or with words, or is empty."""
    _known: "dict[tuple[frozenset[Stack], int], frozenset[Stack]]" = field(
        default_factory=dict, compare=False, repr=False
    )
    """What came after some states, shared by all that come from one beginning: inside of a string
    the same state comes back with every character. With the last of them the grammar is free."""

    @classmethod
    def at(cls, items: Items) -> "GrammarState":
        """The beginning of a grammar."""
        return cls(_opened([items]))

    def __bool__(self) -> bool:
        return bool(self.stacks)

    @property
    def is_complete(self) -> bool:
        """Whether what was read is whole."""
        return () in self.stacks

    def after(self, symbol: int) -> "GrammarState":
        """The state after one more symbol."""
        known, key = self._known, (self.stacks, symbol)
        found = known.get(key)
        if found is None:
            found = _opened(rest for stack in self.stacks for rest in _past(stack, symbol))
            if len(known) >= MOST_KNOWN:
                del known[next(iter(known))]
            known[key] = found
        return GrammarState(found, known)

    def after_all(self, symbols: Iterable[int]) -> "GrammarState":
        """The state after more symbols."""
        state = self
        for symbol in symbols:
            if not state:
                return state
            state = state.after(symbol)
        return state

    def following(self) -> frozenset[int]:
        """The symbols that may come next."""
        return frozenset(symbol for stack in self.stacks for symbol in _firsts(stack))


def text(letters: str) -> Symbols:
    """These letters, as UTF-8."""
    return Symbols(tuple(letters.encode()))


def either(*choices: "Items | GrammarItem") -> Either:
    """One of several items or sequences."""
    return Either(tuple(one if isinstance(one, tuple) else (one,) for one in choices))


def optional(*items: GrammarItem) -> Either:
    """A sequence or nothing."""
    return Either((items, ()))


def members(choices: "Mapping[str, Items]", needed: frozenset[str], between: "Items") -> Members:
    """Each of the named sequences at most once, in any order, `between` two of them; those that are
    `needed` have to come. Every one begins with symbols by which it is told from the others."""
    split = {name: _split(items) for name, items in choices.items()}
    listed = WordList.of(dict(split.values()))
    places = {word: place for place, word in enumerate(listed.words)}
    bits = sum(1 << places[split[name][0]] for name in needed)
    return Members(listed, bits, listed.all, between)


def _split(items: Items) -> tuple[Word, Items]:
    """The symbols that a sequence begins with, and the rest."""
    word: list[int] = []
    for place, item in enumerate(items):
        if not isinstance(item, Symbols):
            return tuple(word), items[place:]
        word += item.symbols
    return tuple(word), ()


def _past(stack: Stack, symbol: int) -> Iterable[Stack]:
    if not stack:
        return ()
    first, rest = stack[0], stack[1:]
    if isinstance(first, Symbols):
        if first.symbols[0] != symbol:
            return ()
        left = first.symbols[1:]
        return ((Symbols(left), *rest) if left else rest,)
    if isinstance(first, Words):
        narrowed = first.after(symbol)
        return () if narrowed is None else ((narrowed, *rest),)
    assert isinstance(first, OneSymbol)
    return (rest,) if symbol in first.symbols else ()


def _firsts(stack: Stack) -> Iterable[int]:
    if not stack:
        return ()
    first = stack[0]
    if isinstance(first, Words):
        return first.following()
    return first.symbols[:1] if isinstance(first, Symbols) else first.symbols  # type: ignore[union-attr]


def _opened(stacks: Iterable[Stack]) -> frozenset[Stack]:
    """The same stacks with symbols or words at their beginning, or empty."""
    waiting, seen, found = list(stacks), set[Stack](), set[Stack]()
    while waiting:
        stack = waiting.pop()
        if stack in seen:
            continue
        seen.add(stack)
        if not stack or isinstance(stack[0], OneSymbol):
            found.add(stack)
        elif isinstance(stack[0], Symbols):
            found.add(stack) if stack[0].symbols else waiting.append(stack[1:])
        elif isinstance(stack[0], Words):
            if stack[0].goes_on:
                found.add(stack)
            if (behind := stack[0].rest) is not None:
                waiting.append((*behind, *stack[1:]))
        else:
            waiting += [(*choice, *stack[1:]) for choice in _choices(stack[0])]
    return frozenset(found)


def _choices(item: GrammarItem) -> Sequence[Items]:
    """What an item may stand for."""
    match item:
        case Either(choices):
            return choices
        case Repeated(one, least, most):
            if most == 0:
                return ((),)
            left = None if most is None else most - 1
            again = (one, Repeated(one, max(0, least - 1), left))
            return (again,) if least else (again, ())
        case Members():
            return item.ways()
        case GrammarRule():
            return (item.make(),)
    raise AssertionError(item)
