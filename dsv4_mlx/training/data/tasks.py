"""Tasks of every kind, endless and the same for the same seed: what is taught and what is asked.

`tasks("arithmetic", "held_out", seed=0)` yields tasks whose facts and wordings no lesson has.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import get_args

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.errors import UsageError
from dsv4_mlx.training.data.arithmetic import arithmetic_task
from dsv4_mlx.training.data.task import Kind, Split, Task
from dsv4_mlx.training.data.tool_tasks import needless_task, tool_task, unfitting_task

Maker = Callable[[random.Random, Split, ThinkingMode], Task]


def no_tool_task(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    """Tools are on offer and none is to be called, because none fits or none is needed."""
    if rng.random() < 0.5:
        return unfitting_task(rng, split, mode)
    return needless_task(
        rng, arithmetic_task(rng, split, mode), never=("calculator", "run_command")
    )


MAKERS: Mapping[Kind, Maker] = {
    "arithmetic": arithmetic_task,
    "tools": tool_task,
    "no_tool": no_tool_task,
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
    rng = random.Random(f"{kind}/{split}/{seed}")
    modes = get_args(ThinkingMode)
    for number in count():
        yield MAKERS[kind](rng, split, thinking_mode or modes[number % len(modes)])
