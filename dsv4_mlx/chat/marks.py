"""Control tokens within a reply's text: each is one character that no text can hold.

A reply arrives as tokens. A control token is markup; the same letters in ordinary tokens are text.
So that patterns can look for both in one string, a control token stands there as half a surrogate
pair, its mark, which decoding UTF-8 never gives. The line runs where the vocabulary draws it:
`｜DSML｜` is one token, but `<`, `invoke` and `parameter` around it are ordinary ones, so these are
markup by their letters, and only beside a mark.
"""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from dsv4_mlx.chat.tokens import BOS, DSML, END_THINK, EOS, THINK

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer

MARKED: Final = (BOS, EOS, THINK, END_THINK, DSML)
"""The control tokens that mean something in a reply; others are shown as they are spelled."""
_MARKS: Final = {token: chr(0xD800 + place) for place, token in enumerate(MARKED)}
_SPELLINGS: Final = {ord(mark): token for token, mark in _MARKS.items()}


def mark(token: str) -> str:
    """The character that stands for a control token of `MARKED`."""
    return _MARKS[token]


def spelled_out(marked: str) -> str:
    """Text with every mark as the letters of its token."""
    return marked if marked.isascii() else marked.translate(_SPELLINGS)


class SpelledMarks:
    """Text whose letters are all there is, piece by piece, to text with marks.

    `spelled` are the control tokens that have no id of their own: all of them where only the text
    of a reply is known. What may become a spelling is held back until it is decided.
    """

    def __init__(self, spelled: Collection[str]) -> None:
        self._any = re.compile("|".join(map(re.escape, spelled)) or r"(?!)")
        self._longest = max(map(len, spelled), default=1)
        self._beginnings = {token[:end] for token in spelled for end in range(1, len(token))}
        # A text that already holds such a character is damaged; it must not become markup.
        self._damaged = {ord(_MARKS[token]): "\N{REPLACEMENT CHARACTER}" for token in spelled}
        self._held = ""

    @property
    def holds(self) -> bool:
        """Whether some text waits for what follows."""
        return bool(self._held)

    def add(self, text: str) -> str:
        """Text with marks, as far as `text` decides it."""
        if not self._beginnings:  # tokens tell all of it
            return text
        text = self._any.sub(
            lambda match: _MARKS[match[0]], self._held + text.translate(self._damaged)
        )
        starts = range(max(0, len(text) - self._longest + 1), len(text))
        end = next((at for at in starts if text[at:] in self._beginnings), len(text))
        self._held = text[end:]
        return text[:end]

    def finish(self) -> str:
        """Text that was held back and became no control token."""
        held, self._held = self._held, ""
        return held


class MarkedTokens:
    """Tokens of one reply, one after the other, to text with marks; never half a character."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        ids = tokenizer.control_ids
        self.spelled = tuple(token for token in MARKED if token not in ids)
        """Control tokens that this vocabulary writes with ordinary ones."""
        self._marks = {ids[token]: _MARKS[token] for token in MARKED if token in ids}
        self._detokenizer = tokenizer.detokenizer()

    def add(self, token: int) -> str:
        """The text that is complete with this token, often empty inside a character."""
        found = self._marks.get(token)
        if found is None:
            return self._detokenizer.add(token)
        return self._detokenizer.finish() + found

    def finish(self) -> str:
        """Text that was left of an unfinished character, as U+FFFD."""
        return self._detokenizer.finish()
