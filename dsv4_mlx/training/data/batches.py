"""Batches of packed lessons, and the text that the vocabulary is made from.

The same seed and step give the same batch. A row is whole conversations, one after another, and is
filled up with the beginning of one more.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import get_args

import numpy as np

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.training.data.lessons import SHARES, KindAndMode, Lesson, Lessons, prompt_of
from dsv4_mlx.training.data.task import Kind
from dsv4_mlx.training.data.tasks import tasks

_SAME_TEXT = 40  # a schema is one text however many lessons carry it
_AT_FIRST = 0.75  # share of a batch that is drawn freely; the rest is what is missing then
_GOLDEN, _SILVER = 0.6180339887, 0.4142135624  # multiples of these lie evenly, modulo 1
_TRIES = 4  # lessons drawn for what is left of a row before one is cut


@dataclass(frozen=True)
class Batch:
    """Token ids [B, S + 2] and what each is worth as a target, float32 [B, S + 2]."""

    tokens: np.ndarray
    weights: np.ndarray


def batch(
    tokenizer: Tokenizer,
    seed: int,
    step: int,
    rows: int,
    length: int,
    kinds: Collection[Kind] = tuple(SHARES),
) -> Batch:
    """The batch of one step, of lessons of `kinds`: int32 and float32 [rows, length + 2]."""
    packed = packed_rows(tokenizer, seed, step, rows, length, kinds)
    tokens = [[index for lesson in row for index in lesson.ids][: length + 2] for row in packed]
    weights = [[w for lesson in row for w in lesson.weights][: length + 2] for row in packed]
    return Batch(np.array(tokens, np.int32), np.array(weights, np.float32))


def packed_rows(
    tokenizer: Tokenizer,
    seed: int,
    step: int,
    rows: int,
    length: int,
    kinds: Collection[Kind] = tuple(SHARES),
) -> list[list[Lesson]]:
    """The lessons of each row; together they have at least `length` + 2 tokens."""
    size = length + 2
    rng = random.Random(f"{seed}/{step}")
    lessons = Lessons(tokenizer, rng, size, kinds)
    drawn: list[Lesson] = []
    while sum(len(lesson.ids) for lesson in drawn) < _AT_FIRST * rows * size:
        drawn.append(lessons.draw(chance=_spread(step, len(drawn))))
    packed = _first_fit(drawn, rows, size)
    missing = {one: share * rows * size for one, share in lessons.shares.items()}
    for lesson in (lesson for row in packed for lesson in row):
        missing[lesson.kind, lesson.mode] -= len(lesson.ids)
    for row in packed:
        rng.shuffle(row)
        _fill(row, lessons, missing, size)
    return packed


def _spread(step: int, number: int) -> float:
    """In [0, 1): over the steps the n-th numbers lie evenly, so that kinds come in their shares.

    Long lessons are few in a batch; left to chance, their shares would take many batches.
    """
    return (step * _GOLDEN + number * _SILVER) % 1


def _first_fit(drawn: Sequence[Lesson], rows: int, size: int) -> list[list[Lesson]]:
    """The long ones first, each into the first row with room for it."""
    packed: list[list[Lesson]] = [[] for _ in range(rows)]
    room = [size] * rows
    for lesson in sorted(drawn, key=lambda lesson: -len(lesson.ids)):
        row = next((i for i in range(rows) if room[i] >= len(lesson.ids)), None)
        if row is not None:
            packed[row].append(lesson)
            room[row] -= len(lesson.ids)
    return packed


def _fill(
    row: list[Lesson], lessons: Lessons, missing: dict[KindAndMode, float], size: int
) -> None:
    """Whole lessons of what is `missing` while some fit, then one that will be cut."""
    room = size - sum(len(lesson.ids) for lesson in row)
    while room > 0:
        wanted = {one: tokens for one, tokens in missing.items() if tokens > 0}
        for _ in range(_TRIES):
            lesson = lessons.draw(wanted)
            if len(lesson.ids) <= room:
                break
        row.append(lesson)
        missing[lesson.kind, lesson.mode] -= min(room, len(lesson.ids))
        room -= len(lesson.ids)


def corpus(seed: int, conversations: int = 2500) -> list[str]:
    """Text for the vocabulary, as lessons have it, in which no two digits touch.

    So every digit is a token of its own: sums are worked out digit by digit.
    """
    seen: Counter[str] = Counter()
    texts = []
    for kind, share in SHARES.items():
        for mode in get_args(ThinkingMode):
            count = max(1, int(conversations * share / 2))
            for task in islice(tasks(kind, "train", seed, mode), count):
                texts += [text for text, is_control in prompt_of(task).segments if not is_control]
    for text in texts:
        seen[text] += 1
    kept = [text for text, count in seen.items() for _ in range(min(count, _SAME_TEXT))]
    return [re.sub(r"(?<=\d)(?=\d)", " ", text) for text in kept]
