"""Many words at one place of a grammar, such as the names of an object's properties.

They are sorted, so what may come is a range of them, which every symbol narrows by bisection:
thousands cost little more than a few. Which of them may come yet is a bit for each.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from dsv4_mlx.serving.grammar import Items

Word: TypeAlias = tuple[int, ...]
"""Symbols of a grammar."""


@dataclass(frozen=True, eq=False)
class WordList:
    """Words in their order, each once, and what follows each. Two lists are never the same, so
    that comparing is cheap."""

    words: tuple[Word, ...] = field(repr=False)
    behind: "tuple[Items, ...]" = field(repr=False)

    @classmethod
    def of(cls, followed: "Mapping[Word, Items]") -> "WordList":
        """Words with what follows them."""
        words = tuple(sorted(followed))
        return cls(words, tuple(followed[word] for word in words))

    @property
    def all(self) -> int:
        """The bits of all words."""
        return (1 << len(self.words)) - 1


@dataclass(frozen=True)
class Members:
    """Each of some sequences that begin with a word at most once, in any order, `between` two of
    them; those that are `needed` have to come, those `left` may yet. Both are bits of `listed`."""

    listed: WordList
    needed: int
    left: int
    between: "Items" = field(default=(), compare=False, repr=False)
    is_first: bool = True

    def ways(self) -> "list[Items]":
        """How it may go on: with another of them, or with none."""
        ways: list[Items] = [] if self.needed else [()]
        if self.left:
            before = () if self.is_first else self.between
            ways.append((*before, Words.all_of(self.listed, self.left, self)))
        return ways

    def without(self, place: int) -> "Members":
        """What is left once the word at `place` came."""
        others = ~(1 << place)
        return replace(self, needed=self.needed & others, left=self.left & others, is_first=False)


@dataclass(frozen=True)
class Words:
    """One of the words `left` of a list. Those from `start` to `stop` begin with the `depth`
    symbols that were read of it."""

    listed: WordList
    left: int
    start: int
    stop: int
    depth: int = 0
    members: Members | None = None
    """What goes on without the word, behind what follows it."""

    @classmethod
    def all_of(cls, listed: WordList, left: int, members: Members | None = None) -> "Words":
        """Nothing is read of them yet."""
        return cls(listed, left, 0, len(listed.words), members=members)

    @classmethod
    def one_of(cls, texts: Iterable[str]) -> "Words":
        """One of these texts, as UTF-8."""
        listed = WordList.of({tuple(text.encode()): () for text in texts})
        return cls.all_of(listed, listed.all)

    @property
    def rest(self) -> "Items | None":
        """What follows the word that is read to its end; None where none is."""
        if not self._has_whole or not self.left >> self.start & 1:
            return None
        behind = self.listed.behind[self.start]
        return behind if self.members is None else (*behind, self.members.without(self.start))

    @property
    def goes_on(self) -> bool:
        """Whether a word has more symbols than were read."""
        return self._has_left(self._unread, self.stop)

    def after(self, symbol: int) -> "Words | None":
        """After one more symbol; None where no word goes on with it."""
        start, stop = self._range(symbol)
        if not self._has_left(start, stop):
            return None
        return replace(self, start=start, stop=stop, depth=self.depth + 1)

    def following(self) -> set[int]:
        """The symbols that words go on with."""
        found, at = set[int](), self._unread
        while at < self.stop:
            symbol = self.listed.words[at][self.depth]
            _, stop = self._range(symbol)
            if self._has_left(at, stop):
                found.add(symbol)
            at = stop
        return found

    @property
    def _has_whole(self) -> bool:
        return self.start < self.stop and len(self.listed.words[self.start]) == self.depth

    @property
    def _unread(self) -> int:
        """Where the words begin that are not read to their end: of the same beginning the shortest
        comes first."""
        return self.start + self._has_whole

    def _range(self, symbol: int) -> tuple[int, int]:
        words, depth = self.listed.words, self.depth

        def at_depth(word: Word) -> int:
            return word[depth]

        start = bisect_left(words, symbol, self._unread, self.stop, key=at_depth)
        return start, bisect_right(words, symbol, start, self.stop, key=at_depth)

    def _has_left(self, start: int, stop: int) -> bool:
        return bool(self.left >> start & ((1 << (stop - start)) - 1))
