"""Large pastes in the input: one character there, the whole text when it is sent.

A chip is a character of a private plane that stands for a text. It is moved over, deleted and
undone like any other character; only what is drawn for it is longer.
"""

_FIRST_CHIP, _LAST_CHIP = 0x100000, 0x10FFFD  # Unicode's last private plane

LINES_SHOWN = 10
"""A paste of more lines becomes a chip."""
CHARACTERS_SHOWN = 1_000
"""A paste of more characters becomes a chip."""


class Pastes:
    """The texts behind the chips of one run."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def take(self, pasted: str) -> str:
        """What to put into the input for a paste: itself, or a chip for a large one."""
        text = pasted.replace("\r\n", "\n").replace("\r", "\n")
        return self.fold(text)

    def fold(self, text: str) -> str:
        """A chip for `text` where it is too large to be shown, else `text` itself."""
        if text.count("\n") < LINES_SHOWN and len(text) <= CHARACTERS_SHOWN:
            return self._without_foreign_chips(text)
        for chip, known in self._texts.items():
            if known == text:
                return chip
        chip = chr(_FIRST_CHIP + len(self._texts) % (_LAST_CHIP - _FIRST_CHIP))
        self._texts[chip] = text
        return chip

    def expand(self, text: str) -> str:
        """`text` with every chip replaced by what it stands for."""
        return "".join(self._texts.get(character, character) for character in text)

    def labels(self, text: str) -> str:
        """`text` as it is shown: with a label for every chip."""
        return "".join(self.label(character) or character for character in text)

    def label(self, character: str) -> str | None:
        """What is drawn for a chip; None for any other character."""
        text = self._texts.get(character)
        if text is None:
            return None
        lines = text.count("\n") + (not text.endswith("\n"))
        return f"[pasted {lines:,} lines]" if lines > 1 else f"[pasted {len(text):,} characters]"

    def _without_foreign_chips(self, text: str) -> str:
        """A private character that somebody pasted must not turn into an older paste."""
        return "".join("\ufffd" if character in self._texts else character for character in text)


def sendable(text: str) -> str:
    """`text` as valid Unicode: bytes that were no UTF-8 arrive as halves of surrogate pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
