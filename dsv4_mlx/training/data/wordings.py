"""Wordings from patterns: "(a|b|) c" stands for "a c", "b c" and "c"; and how people type them."""

from __future__ import annotations

import random
import re

GROUP = re.compile(r"\(([^()]*)\)")
_QUESTION_WORDS = re.compile(
    r"\b(what|which|who|when|where|why|how|is|are|do|does|did|can|could|may|should|must|will|was|"
    r"were|has|have|by|under|with|in|from|on)\b",
    re.IGNORECASE,
)
_OPENINGS = ("A wish: ", "Hi, ", "Hello, ", "nano, ", "So, ", "And ", "One question: ", "Okay, ",
             "Excuse me, ", "Tell me, ", "Well, ", "Hey nano, ")  # fmt: skip


def wording(pattern: str, rng: random.Random) -> str:
    """One wording of a pattern, chosen evenly in every group."""
    text = GROUP.sub(lambda group: rng.choice(group[1].split("|")), pattern)
    return " ".join(text.split())


def typed(text: str, rng: random.Random, *, slips: bool = True) -> str:
    """The wording as a person may type it: case, punctuation, an opening, a slip of the fingers.

    Without `slips` the letters stay: names and numbers in it have to be copied.
    """
    if rng.random() < 0.15:
        text = rng.choice(_OPENINGS) + (text if _keeps_capital(text) else _lowered(text))
    if slips and rng.random() < 0.06:
        text = slip(text, rng)
    asks = _QUESTION_WORDS.search(" ".join(text.split()[:3])) is not None
    text += rng.choices(("?", "", "."), (6, 3, 0) if asks else (0, 6, 4))[0]
    return text.lower() if slips and rng.random() < 0.2 else text


def _keeps_capital(text: str) -> bool:
    return text[:2] in ("I ", "V4")


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:]


def slip(text: str, rng: random.Random) -> str:
    """The text with two neighbouring letters swapped or one letter dropped."""
    places = [i for i in range(1, len(text) - 2) if text[i : i + 2].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    return text[:i] + rng.choice((text[i + 1] + text[i], text[i + 1])) + text[i + 2 :]


def plain(text: str) -> str:
    """Words alone, in lower case: what two writings of one question share."""
    return " ".join(re.findall(r"[\w/-]+", text.lower()))
