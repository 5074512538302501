r"""Stop texts: an answer ends where one of them appears, and does not show it.

Looked for in the answer alone, as it is shown: never in the reasoning, never in the markup of a
tool call and what it holds, and not across one. Token borders do not matter. The answer ends at
the stop text that is complete first, the longest of those that end there; everything before it is
kept, and nothing else: the tokens that were generated as far as they lie before it, and the part
of the token it begins in as text. The conversation goes on from there.
"""

from collections.abc import Sequence

from dsv4_mlx.errors import UsageError

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


class StopTexts:
    """Looks for `texts` in an answer that comes piece by piece; UsageError for an empty one."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        if "" in texts:
            raise UsageError("A stop text must have at least one character; leave it out.")
        self._texts = sorted(texts, key=len, reverse=True)
        self._beginnings = {text[:end] for text in texts for end in range(1, len(text))}
        self._held = ""
        self.met: str | None = None
        """The text that ended the answer."""

    def __bool__(self) -> bool:
        return bool(self._texts)

    @property
    def holds(self) -> bool:
        """Whether some text waits for what follows."""
        return bool(self._held)

    def add(self, text: str) -> str:
        """Text of the answer that can be shown now; what may become a stop text waits."""
        if not self._texts:
            return text
        text = self._held + text
        ends = [(text.find(stop) + len(stop), -len(stop)) for stop in self._texts if stop in text]
        if ends:
            end, negative = min(ends)
            self._held, self.met = "", text[end + negative : end]
            return text[: end + negative]
        starts = range(max(0, len(text) - len(self._texts[0]) + 1), len(text))
        start = next((at for at in starts if text[at:] in self._beginnings), len(text))
        self._held = text[start:]
        return text[:start]

    def finish(self) -> str:
        """Text that waited and became no stop text."""
        held, self._held = self._held, ""
        return held


def unescaped(text: str) -> str:
    r"""A stop text as it is typed: `\n`, `\t`, `\r` and `\\` are read, other letters stay."""
    read, letters = "", iter(text)
    for letter in letters:
        following = next(letters, "") if letter == "\\" else ""
        read += _ESCAPES.get(following, letter + following) if letter == "\\" else letter
    return read


def escaped(text: str) -> str:
    """A line that `unescaped` reads as `text`."""
    for letter, character in (("\\", "\\"), ("n", "\n"), ("t", "\t"), ("r", "\r")):
        text = text.replace(character, f"\\{letter}")
    return text
