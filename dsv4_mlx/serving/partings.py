"""Where a prompt parts from what was read before, and why: for people whose cache misses.

A prompt and a timeline are both tokens, and where they part says little by itself. What stands on
both sides of that place, and in which part of the prompt it is, tells which of the things happened
that clients do to a conversation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from dsv4_mlx.chat.tokens import END_THINK, THINK, USER

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.serving.timelines import Timelines

_SHOWN: Final = 24
_MARKS: Final = re.compile(r"\b[0-9a-fA-F-]{8,}\b|\d+")
"""What changes from request to request: ids and numbers."""


@dataclass(frozen=True)
class PromptPart:
    """Tokens `start` to `end` of a prompt: from one control token to the next."""

    kind: str
    """The control token that it begins with; none for a beginning without one."""
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class PartingOfTwo:
    """A prompt beside one timeline: the first `matched` tokens are the same."""

    timeline: int
    """Tokens of the timeline."""
    matched: int
    part: int
    """The number of the prompt's part in which they part."""
    why: str
    prompt_text: str
    """What the prompt goes on with."""
    timeline_text: str
    """What the timeline goes on with."""


def prompt_parts(tokens: Sequence[int], tokenizer: "Tokenizer") -> list[PromptPart]:
    """The parts of a prompt, in their order."""
    names = {token: name for name, token in tokenizer.control_ids.items()}
    starts = [0, *(at for at, token in enumerate(tokens) if at and token in names), len(tokens)]
    return [
        PromptPart(names.get(tokens[start], ""), start, end, _text(tokens[start:end], tokenizer))
        for start, end in pairwise(starts)
        if end > start
    ]


def partings(
    timelines: "Timelines", tokens: Sequence[int], tokenizer: "Tokenizer", owner: str = ""
) -> list[PartingOfTwo]:
    """The prompt beside every timeline of `owner`, the one it shares most with first; for the
    model's thread."""
    parts = prompt_parts(tokens, tokenizer)
    found = [_parting(parts, tokens, held, tokenizer) for held in timelines.leaves(owner)]
    return sorted(found, key=lambda one: -one.matched)


def _parting(
    parts: Sequence[PromptPart], tokens: Sequence[int], held: Sequence[int], tokenizer: "Tokenizer"
) -> PartingOfTwo:
    pairs = enumerate(zip(tokens, held, strict=False))
    shorter = min(len(tokens), len(held))
    matched = next((at for at, (one, other) in pairs if one != other), shorter)
    number = next((at for at, one in enumerate(parts) if matched < one.end), len(parts) - 1)
    names = {token: name for name, token in tokenizer.control_ids.items()}
    start = next((at for at in reversed(range(matched)) if tokens[at] in names), -1)
    before = names[tokens[start]] if start >= 0 else ""
    mine = _Stretch.of(tokens, start + 1, matched, names, tokenizer)
    theirs = _Stretch.of(held, start + 1, matched, names, tokenizer)
    is_beginning = all(one.kind != USER for one in parts[: number + 1])
    why = _why(mine, theirs, before, is_beginning=is_beginning)
    if matched == len(tokens):
        why = "the prompt ends here"
    elif matched == len(held):
        why = "the timeline ends here"
    told = (_cut(tokens[matched:], tokenizer), _cut(held[matched:], tokenizer))
    return PartingOfTwo(len(held), matched, number, why, *told)


@dataclass(frozen=True)
class _Stretch:
    """The text around a place, up to the control token after it."""

    text: str
    ends_with: str
    is_at_end: bool
    """Whether that control token stands at the very place."""

    @classmethod
    def of(
        cls,
        tokens: Sequence[int],
        start: int,
        place: int,
        names: dict[int, str],
        tokenizer: "Tokenizer",
    ) -> "_Stretch":
        """The one around `place`, which begins at `start`."""
        end = next((at for at in range(place, len(tokens)) if tokens[at] in names), len(tokens))
        name = names[tokens[end]] if end < len(tokens) else ""
        return cls(_text(tokens[start:end], tokenizer), name, end == place)


def _why(mine: _Stretch, theirs: _Stretch, before: str, *, is_beginning: bool) -> str:
    """What happened where `mine` stands in the prompt and `theirs` in the timeline."""
    one, other = mine.text, theirs.text
    if before == THINK and not one.strip() and other.strip():
        return "the reasoning was left out"
    if mine.is_at_end and theirs.is_at_end and mine.ends_with != theirs.ends_with:
        thinks = {mine.ends_with, theirs.ends_with} == {THINK, END_THINK}
        return "the thinking level is another" if thinks else "another turn follows"
    if "".join(one.split()) == "".join(other.split()):
        is_data = set(one) & set("{[")
        return "a value was serialised anew" if is_data else "white space differs"
    if _MARKS.sub("#", one) == _MARKS.sub("#", other):
        return "a number, a date or an id changed" + (" in the beginning" if is_beginning else "")
    if before == THINK:
        return "the reasoning is another"
    if _holds(one, other) or _holds(other, one):
        return "text was added" if len(one) > len(other) else "text was left out"
    return "the beginning is another: system message or tools" if is_beginning else "another text"


def _holds(longer: str, shorter: str) -> bool:
    """Whether `longer` is `shorter` with one piece of text more, wherever that is."""
    shorter = shorter.rstrip()
    pairs = enumerate(zip(longer, shorter, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), len(shorter))
    return len(longer) >= len(shorter) and longer.rstrip().endswith(shorter[same:])


def _text(tokens: Sequence[int], tokenizer: "Tokenizer") -> str:
    return b"".join(map(tokenizer.token_bytes, tokens)).decode("utf-8", "replace")


def _cut(tokens: Sequence[int], tokenizer: "Tokenizer") -> str:
    """The beginning of what goes on."""
    text = _text(tokens[:_SHOWN], tokenizer)
    return text if len(tokens) <= _SHOWN else f"{text}..."
