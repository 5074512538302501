"""The markers of a reply: what is looked for in its text, and what each means.

Where a control token belongs to a marker, its mark stands there; see `chat.marks`.
"""

import re
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Final

from dsv4_mlx.chat.marks import mark
from dsv4_mlx.chat.tokens import DSML, END_THINK, EOS, THINK

_DSML: Final = mark(DSML)


class Markup(Enum):
    """What a marker means."""

    THINK = auto()
    END_THINK = auto()
    EOS = auto()
    BLOCK = auto()
    BLOCK_END = auto()
    INVOKE = auto()
    INVOKE_END = auto()
    PARAMETER = auto()
    PARAMETER_END = auto()


class Markers:
    """A set of strings, none the beginning of another, looked for in a growing text."""

    def __init__(self, kinds: Mapping[str, Markup]) -> None:
        self.kinds = kinds
        self._any = re.compile("|".join(re.escape(marker) for marker in kinds))
        self._longest = max(map(len, kinds))
        self._beginnings = {marker[:end] for marker in kinds for end in range(1, len(marker))}

    def search(self, text: str) -> re.Match[str] | None:
        return self._any.search(text)

    def undecided(self, text: str) -> int:
        """Where the end of `text` may be the beginning of a marker; len(text) if nowhere."""
        starts = range(max(0, len(text) - self._longest + 1), len(text))
        return next((start for start in starts if text[start:] in self._beginnings), len(text))


_BLOCK_NAMES = ("tool_calls", "toolcalls", "tool_call", "tool", "function_calls")


def _all(texts: Iterable[str], kind: Markup) -> dict[str, Markup]:
    return dict.fromkeys(texts, kind)


def _after_newlines(text: str) -> list[str]:
    """The release puts an empty line before calls; as far as it is there, it belongs to them."""
    return [text, "\n" + text, "\n\n" + text]


def _truncated(name: str, shortest: int) -> list[str]:
    return [f"</{_DSML}{name[:end]}>" for end in range(shortest, len(name) + 1)]


_BLOCK_ENDS = _all((f"</{_DSML}{name}>" for name in _BLOCK_NAMES), Markup.BLOCK_END)
PROSE: Final = Markers(
    {mark(THINK): Markup.THINK, mark(END_THINK): Markup.END_THINK, mark(EOS): Markup.EOS}
    | _all(
        (form for name in _BLOCK_NAMES for form in _after_newlines(f"<{_DSML}{name}>")),
        Markup.BLOCK,
    )
    | _all(_after_newlines(f"<{_DSML}invoke"), Markup.INVOKE)
    | _BLOCK_ENDS
)
BODY: Final = Markers(
    {
        mark(EOS): Markup.EOS,
        f"<{_DSML}parameter": Markup.PARAMETER,
        f"<{_DSML}invoke": Markup.INVOKE,
    }
    | _all(_truncated("invoke", 3), Markup.INVOKE_END)
    | _BLOCK_ENDS
)
VALUE: Final = Markers(_all(_truncated("parameter", 5), Markup.PARAMETER_END))
