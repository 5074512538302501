"""Pasted text in the input: text whatever it spells, and a large one is one character there.

A chip is a character of a private plane that stands for a text. It is moved over, deleted and
undone like any other character; only what is drawn for it is longer. A pasted character that would
mean something if it were typed (a slash that begins a command, three quotes) is a chip as well,
drawn as what it stands for.
"""

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeGuard

_FIRST_CHIP, _LAST_CHIP = 0x100000, 0x10FFFD  # Unicode's last private plane

LINES_SHOWN = 10
"""A paste of more lines becomes a chip."""
CHARACTERS_SHOWN = 1_000
"""A paste of more characters becomes a chip."""

Parts: TypeAlias = str | Sequence[str | dict[str, str]]
"""An input as JSON holds it: what was typed as strings, what was pasted as `{"pasted": text}`."""

# Where a line begins with a command, blocks of quotes or what becomes one with the next paste, a
# backslash that keeps an @ as text, and characters that are chips themselves.
_MEANING = r'^[/!]|"{3,}|\A"+|"+\Z|(?<!\S)\\(?=\\*(?:@|\Z))|[\U00100000-\U0010fffd]'
_PASTED = re.compile(_MEANING, re.MULTILINE)
_LITERAL = re.compile(_MEANING + r"|(?<!\S)@", re.MULTILINE)
_AT = re.compile(r"(?<!\S)\\*@")


class Pastes:
    """The texts behind the chips of one run."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._chips: dict[tuple[str, bool], str] = {}
        self._drawn_as_text: set[str] = set()

    # Into the input

    def take(self, pasted: str) -> str:
        """What to put into the input for a paste: itself, or a chip for a large one."""
        text = pasted.replace("\r\n", "\n").replace("\r", "\n")
        return self._chip(text) if is_large(text) else self._without_meaning(_PASTED, text)

    def literal(self, text: str) -> str:
        """What to put into the input for a message to be sent again just as it is: no word of it
        is a command or names a file."""
        return self._chip(text) if is_large(text) else self._without_meaning(_LITERAL, text)

    def fold(self, text: str) -> str:
        """A chip for typed `text` where it is too large to be shown, else `text` itself."""
        return self._chip(text) if is_large(text) else text

    def restored(self, parts: Parts) -> str:
        """The input that `parts` once gave."""
        if isinstance(parts, str):
            return self.fold(parts)
        return "".join(
            part if isinstance(part, str) else self.take(part["pasted"]) for part in parts
        )

    # Out of the input

    def expand(self, text: str) -> str:
        """`text` with every chip replaced by what it stands for."""
        return "".join(self._texts.get(character, character) for character in text)

    def sent(self, text: str) -> str:
        """As `expand`, with a backslash before every @ that a paste begins a word with: what is
        sent names the files that are typed or can be read in the input."""
        whole = self.expand(text)
        pasted = list(self._spans(text))
        pieces, end, span = [], 0, 0
        for found in _AT.finditer(whole):
            while span < len(pasted) and pasted[span][1] <= found.start():
                span += 1
            if span < len(pasted) and pasted[span][0] < found.end():
                pieces.append(whole[end : found.start()] + "\\")
                end = found.start()
        return "".join([*pieces, whole[end:]])

    def parts(self, text: str) -> Parts:
        """`text` as it can be kept and `restored`, valid Unicode."""
        text = sendable(text)
        parts: list[str | dict[str, str]] = []
        typed = ""
        for character in text:
            pasted = self._texts.get(character)
            if pasted is None:
                typed += character
                continue
            part = {"pasted": sendable(pasted)}
            parts += [typed, part] if typed else [part]
            typed = ""
        return [*parts, *([typed] if typed else [])] if parts else typed

    # On the screen

    def labels(self, text: str) -> str:
        """`text` as it is shown: with a label for every chip."""
        return "".join(self.label(character) or character for character in text)

    def label(self, character: str) -> str | None:
        """What is drawn for a chip; None for any other character."""
        text = self._texts.get(character)
        if text is None or character in self._drawn_as_text:
            return text
        lines = text.count("\n") + (not text.endswith("\n"))
        return f"[pasted {lines:,} lines]" if lines > 1 else f"[pasted {len(text):,} characters]"

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where chips begin and end in the expanded text."""
        place = 0
        for character in text:
            pasted = self._texts.get(character)
            if pasted is not None:
                yield place, place + len(pasted)
            place += len(pasted or character)

    def _without_meaning(self, meaning: "re.Pattern[str]", text: str) -> str:
        def stand_ins(found: "re.Match[str]") -> str:
            return "".join(self._chip(character, as_text=True) for character in found[0])

        return meaning.sub(stand_ins, text)

    def _chip(self, text: str, *, as_text: bool = False) -> str:
        chip = self._chips.get((text, as_text))
        if chip is None:
            chip = chr(_FIRST_CHIP + len(self._texts) % (_LAST_CHIP - _FIRST_CHIP))
            self._chips[text, as_text], self._texts[chip] = chip, text
            if as_text:
                self._drawn_as_text.add(chip)
        return chip


def is_parts(value: object) -> TypeGuard[Parts]:
    """Whether a JSON value is an input that was kept."""
    if isinstance(value, str):
        return True
    return isinstance(value, list) and all(
        isinstance(part, str)
        or (
            isinstance(part, dict) and part.keys() == {"pasted"} and isinstance(part["pasted"], str)
        )
        for part in value
    )


def length(parts: Parts) -> int:
    """Characters of the expanded text."""
    return sum(len(part if isinstance(part, str) else part["pasted"]) for part in parts)


def is_large(text: str) -> bool:
    """Whether `text` is too long to be shown in the input."""
    return text.count("\n") >= LINES_SHOWN or len(text) > CHARACTERS_SHOWN


def sendable(text: str) -> str:
    """`text` as valid Unicode: bytes that were no UTF-8 arrive as halves of surrogate pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
