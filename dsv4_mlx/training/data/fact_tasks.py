"""Questions about the program and small talk as tasks, alone or after other questions."""

from __future__ import annotations

import random
from typing import Any

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.training.data import help as facts
from dsv4_mlx.training.data.help import Deck, Fact, FactKind
from dsv4_mlx.training.data.task import Split, Task, assistant, user

_LONGER = 0.4  # share of lessons in which other questions come first
_SYSTEM = 0.15  # share of lessons with a system message


class FactTasks:
    """Tasks of one kind and split: lessons from the facts, or the held-out questions in turn."""

    def __init__(self, kind: FactKind, rng: random.Random, split: Split) -> None:
        self._kind: FactKind = kind
        self._rng = rng
        self._split: Split = split
        lessons = split == "train"
        own = facts.of_kind(kind)
        self._deck = facts.fact_deck(rng, own) if lessons else Deck(rng, facts.held_out(own))
        self._others = facts.fact_deck(rng)

    def __call__(self, mode: ThinkingMode) -> Task:
        if self._split == "held_out":
            fact, question = self._deck.draw()
            return self._task(fact, [user(question)], mode)
        fact = self._deck.draw()
        messages: list[dict[str, Any]] = []
        if self._rng.random() < _SYSTEM:
            prompts = facts.source()["systems"]["prompts"]
            messages = [{"role": "system", "content": self._rng.choice(prompts)}]
        for _ in range(self._rng.randint(1, 3) if self._rng.random() < _LONGER else 0):
            messages += fact_turn(self._others.draw(), self._rng, mode)
        messages.append(user(facts.question(fact, self._rng)))
        return self._task(fact, messages, mode)

    def _task(self, fact: Fact, messages: list[dict[str, Any]], mode: ThinkingMode) -> Task:
        return Task(
            kind=self._kind,
            template=fact.id,
            messages=tuple(messages),
            thinking_mode=mode,
            answer=fact.judge,
            reply=assistant(fact.answer, fact.reasoning, mode),
        )


def fact_turn(fact: Fact, rng: random.Random, mode: ThinkingMode) -> list[dict[str, Any]]:
    """A question about the fact and its answer."""
    return [
        user(facts.question(fact, rng)),
        assistant(fact.answer, fact.reasoning, mode),
    ]
