"""Scripted drafters: what they guess is decided by a script that knows the reply to come."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Guess = Callable[[list[int], int], list[int]]
"""Tokens so far, the anchor as the last of them, and a count -> guesses."""


@dataclass
class ScriptedDrafts:
    """A drafter that asks `guess`; it refuses to follow anything but its timeline."""

    guess: Guess
    name: str = "scripted"
    draft_costs: Sequence[float] = (0.0,) * 8
    needs_features: bool = False
    asked: list[int] = field(default_factory=list)
    sure: Callable[[list[int]], list[float]] | None = None
    """Of guesses, confidence logits; a drafter of its own kind where it is set."""

    def new_drafter(self) -> "ScriptedDrafter":
        return ScriptedDrafter(self) if self.sure is None else SureDrafter(self)


@dataclass
class ScriptedDrafter:
    drafts: ScriptedDrafts
    tokens: list[int] = field(default_factory=list)

    def absorb(self, tokens: Sequence[int], features: Any) -> None:
        self.tokens += tokens

    def draft(self, anchor: int, count: int, draws: Sequence[Any] = ()) -> list[int]:
        self.drafts.asked.append(count)
        return self.drafts.guess([*self.tokens, anchor], count)[:count]

    def reset(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)

    def remember(self) -> dict[str, Any]:
        return {}

    def resume(self, arrays: Any) -> bool:
        return False

    def state(self) -> list[Any]:
        return []


@dataclass
class SureDrafter(ScriptedDrafter):
    """One that says how sure it is of its last guesses."""

    guessed: list[int] = field(default_factory=list)

    def draft(self, anchor: int, count: int, draws: Sequence[Any] = ()) -> list[int]:
        self.guessed = super().draft(anchor, count, draws)
        return self.guessed

    def confidence(self) -> list[float]:
        assert self.drafts.sure is not None
        return self.drafts.sure(self.guessed)


def from_text(text: list[int]) -> Guess:
    """Always right, where the timeline is to become `text`."""
    return lambda tokens, count: text[len(tokens) : len(tokens) + count]


def wrong(text: list[int], vocab_size: int) -> Guess:
    right = from_text(text)
    return lambda tokens, count: [(token + 1) % vocab_size for token in right(tokens, count)]


def right_then_wrong(text: list[int], vocab_size: int) -> Guess:
    """As many right ones as the timeline's length modulo 4 says, then wrong ones."""

    def guess(tokens: list[int], count: int) -> list[int]:
        found = from_text(text)(tokens, count)
        turn = len(tokens) % 4
        return found[:turn] + [(token + 1) % vocab_size for token in found[turn:]]

    return guess


def at_random(seed: int, vocab_size: int) -> Guess:
    rng = random.Random(seed)
    return lambda tokens, count: [rng.randrange(vocab_size) for _ in range(count)]


def always_this(token: int) -> Guess:
    """Such as EOS, whatever comes."""
    return lambda tokens, count: [token] * count


KINDS: dict[str, Callable[[list[int], int, int], Guess]] = {
    "right": lambda text, vocab, eos: from_text(text),
    "wrong": lambda text, vocab, eos: wrong(text, vocab),
    "random": lambda text, vocab, eos: at_random(5, vocab),
    "right then wrong": lambda text, vocab, eos: right_then_wrong(text, vocab),
    "eos": lambda text, vocab, eos: always_this(eos),
    "none": lambda text, vocab, eos: lambda tokens, count: [],
}
