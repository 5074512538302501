"""Whether a reply runs in a loop.

The rule: its last tokens are one passage said over and over without a change, of at most
LONGEST tokens, REPEATS times in a row and LEAST_TOKENS tokens in all. A passage of PASSAGE tokens
or more, unless it is a single line, needs PASSAGE_REPEATS only: paragraphs are not repeated on
purpose, lines of a table are.

Lists, tables and code repeat their shape, and not every token of it. What differs in a number is
no loop: somebody may have asked to count. Reasoning and answer are watched apart.
"""

from typing import Literal

Loops = Literal["notice", "stop", "off"]
"""What a loop does: a note, the end of the reasoning or answer it is in, or nothing."""
LOOPS: tuple[Loops, ...] = ("notice", "stop", "off")

LONGEST = 512
REPEATS = 64
PASSAGE, PASSAGE_REPEATS = 64, 8
LEAST_TOKENS = 1024

_EVERY = 32
"""Tokens from one search for a period to the next; each search costs a few microseconds."""
_WINDOW = 2 * LONGEST + _EVERY


class LoopWatch:
    """Fed the tokens of one part of a reply; what a token costs does not grow with the reply."""

    def __init__(self) -> None:
        # Ids as characters, so that runs of them are compared as strings.
        self._ids: list[str] = []
        self._texts: list[str] = []
        self.period = 0
        """Tokens of the passage that repeats; 0 while none does."""
        self.run = 0
        """Tokens that it has been repeating for."""

    @property
    def repeats(self) -> int:
        """How often the passage was said."""
        return self.run // self.period if self.period else 0

    def add(self, token: int, text: str) -> bool:
        """Whether, with this token and its text, the reply runs in a loop."""
        letter = chr(token % 0x110000)
        if self.period and letter == self._ids[-self.period]:
            self.run += 1
        else:
            self.period = self.run = 0
        self._ids.append(letter)
        self._texts.append(text)
        if len(self._ids) % _EVERY == 0:
            self._trim()
            if not self.period:
                self._search()
        return self.run >= LEAST_TOKENS and self._is_enough()

    def _is_enough(self) -> bool:
        if self.repeats >= REPEATS:
            return True
        if self.period < PASSAGE or self.repeats < PASSAGE_REPEATS:
            return False
        return "".join(self._texts[-self.period :]).count("\n") != 1

    def _trim(self) -> None:
        if len(self._ids) >= 2 * _WINDOW:
            del self._ids[:-_WINDOW], self._texts[:-_WINDOW]

    def _search(self) -> None:
        """Find the passage that the last tokens say at least twice, if there is one."""
        ids = "".join(self._ids[-_WINDOW:])
        last = ids[-_EVERY:]
        at = ids.rfind(last, 0, len(ids) - 1)
        while at >= 0:
            period = len(ids) - _EVERY - at
            said = max(2 * period, 2 * _EVERY)
            if period > LONGEST or said > len(ids):
                return
            if ids[-said:-period] == ids[period - said :]:
                self.period, self.run = period, said
                self._count_back(ids)
                return
            at = ids.rfind(last, 0, at + _EVERY - 1)

    def _count_back(self, ids: str) -> None:
        while self.run < len(ids) and ids[-self.run - 1] == ids[-self.run - 1 + self.period]:
            self.run += 1
