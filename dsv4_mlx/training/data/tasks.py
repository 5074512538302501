"""Tasks of every kind, endless and the same for the same seed: what is taught and what is asked.

`tasks("arithmetic", "held_out", seed=0)` yields tasks whose facts and wordings no lesson has.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import get_args

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.errors import UsageError
from dsv4_mlx.training.data.arithmetic import arithmetic_task
from dsv4_mlx.training.data.fact_tasks import FactTasks
from dsv4_mlx.training.data.follow_up import follow_up_task
from dsv4_mlx.training.data.recall import recall_task
from dsv4_mlx.training.data.task import Kind, Split, Task
from dsv4_mlx.training.data.tool_tasks import (
    needless_task,
    offer_task,
    tool_task,
    unfitting_task,
)

Maker = Callable[[ThinkingMode], Task]
"""Draws the next task in a mode."""

Source = Callable[[random.Random, Split], Maker]

_OFFERS = 0.3
"""Share of lessons without a call that ask which tools there are."""


def _drawing(make: Callable[[random.Random, Split, ThinkingMode], Task]) -> Source:
    return lambda rng, split: partial(make, rng, split)


class _NoTool:
    """Tools are on offer and none is to be called, because none fits or none is needed."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self._rng = rng
        self._split: Split = split
        self._help = FactTasks("help", rng, split)

    def __call__(self, mode: ThinkingMode) -> Task:
        if self._split == "train" and self._rng.random() < _OFFERS:
            return offer_task(self._rng, mode)
        form = self._rng.choices(("unfitting", "help", "sum"), (2, 1, 1))[0]
        if form == "unfitting":
            return unfitting_task(self._rng, self._split, mode)
        if form == "help":
            return needless_task(self._rng, self._split, self._help(mode))
        task = arithmetic_task(self._rng, self._split, mode)
        return needless_task(self._rng, self._split, task, wanted="calculator")


MAKERS: Mapping[Kind, Source] = {
    "arithmetic": _drawing(arithmetic_task),
    "tools": _drawing(tool_task),
    "no_tool": _NoTool,
    "recall": _drawing(recall_task),
    "help": partial(FactTasks, "help"),
    "follow_up": _drawing(follow_up_task),
    "talk": partial(FactTasks, "talk"),
}


def tasks(
    kind: Kind, split: Split, seed: int, thinking_mode: ThinkingMode | None = None
) -> Iterator[Task]:
    """Tasks of one kind without an end; without a mode the two take turns.

    UsageError for a kind or a split that there is none of.
    """
    if kind not in MAKERS or split not in get_args(Split):
        raise UsageError(
            f"A task is of a kind ({', '.join(MAKERS)}) and of a split "
            f"({', '.join(get_args(Split))}), "
            f"got {kind!r} and {split!r}; choose from these."
        )
    make = MAKERS[kind](random.Random(f"{kind}/{split}/{seed}"), split)
    modes = get_args(ThinkingMode)
    for number in count():
        yield make(thinking_mode or modes[number % len(modes)])
