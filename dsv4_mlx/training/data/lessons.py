"""Lessons: whole conversations as token ids, each token with what it is worth as a target."""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from typing import get_args

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.encoding import Prompt, Segment, encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import ASSISTANT, END_THINK, EOS, THINK
from dsv4_mlx.training.data.recall import recall_drill, recall_task
from dsv4_mlx.training.data.task import Kind, Task
from dsv4_mlx.training.data.tasks import MAKERS, Maker

KindAndMode = tuple[Kind, ThinkingMode]

SHARES: Mapping[Kind, float] = {
    "arithmetic": 0.12,
    "help": 0.12,
    "recall": 0.13,
    "tools": 0.24,
    "no_tool": 0.2,
    "follow_up": 0.15,
    "talk": 0.04,
}
"""Share of the tokens that each kind has, half of it in each mode."""

ELSEWHERE = 0.1  # questions teach the language, so they count a little
LONG_TEXT = 0.01  # filler and schemas teach nothing that is asked for
COPIED = 3.0  # what is copied is a few tokens of a reply, and all of what it has to find
_LONG_TOKENS = 100
_MAX_EFFORT = 0.05  # share of thinking lessons that begin with the text of level max
_KEPT = 0.5  # share of lessons in which earlier turns keep their reasoning
_DRILLS = 0.5  # share of recall lessons that are drills,
_DRILLS_ALONE = 300  # and up to so many tokens all of them
_SHORTEST_RECALL = 50  # some facts and no filler: where recall begins
_MEASURED = 40  # lessons from which the mean length of a kind is taken


@dataclass(frozen=True)
class Lesson:
    """Token ids of a conversation and as many weights; `kind` and `mode` are those of its task."""

    ids: list[int]
    weights: list[float]
    kind: Kind
    mode: ThinkingMode


def prompt_of(task: Task, *, effort: str | None = None, keep: bool = False) -> Prompt:
    """The whole conversation of a task in the official encoding.

    The encoding leaves out the reasoning of earlier turns, as a chat does, unless there are tools
    or `keep` says otherwise; it is kept where the lesson goes on after the task's own reply.
    """
    goes_on = any(message["role"] == "user" for message in task.after)
    return encode_messages(
        task.lesson(),
        thinking_mode=task.thinking_mode,
        reasoning_effort=effort,
        drop_thinking=not (keep or goes_on),
    )


def lesson_of(
    tokenizer: Tokenizer, task: Task, *, effort: str | None = None, keep: bool = False
) -> Lesson:
    """1 for what the assistant says up to EOS, more for what it copies, less for the rest.

    The `<think>` or `</think>` right after the assistant's token belongs to the prompt.
    """
    ids: list[int] = []
    weights: list[float] = []
    speaks, before = False, ""
    for segment in prompt_of(task, effort=effort, keep=keep).segments:
        own = _segment_ids(tokenizer, segment)
        given = before == ASSISTANT and segment.text in (THINK, END_THINK)
        weight = ELSEWHERE if len(own) < _LONG_TOKENS else LONG_TEXT
        ids += own
        if speaks and not given:
            weights += _spoken_weights(tokenizer, segment, task.copied)
        else:
            weights += [weight] * len(own)
        before = segment.text if segment.is_control else ""
        speaks = (speaks or before == ASSISTANT) and before != EOS
    return Lesson(ids, weights, task.kind, task.thinking_mode)


def _spoken_weights(tokenizer: Tokenizer, segment: Segment, copied: Collection[str]) -> list[float]:
    """A weight for every token of a segment: those that touch a copied text count more."""
    ids = _segment_ids(tokenizer, segment)
    spans = [
        found.span() for text in copied for found in re.finditer(re.escape(text), segment.text)
    ]
    if not spans or segment.is_control:
        return [1.0] * len(ids)
    ends = list(accumulate(len(tokenizer.decode([index])) for index in ids))
    return [
        COPIED if any(begin < stop and start < end for start, stop in spans) else 1.0
        for begin, end in zip([0, *ends], ends, strict=False)
    ]


@lru_cache(maxsize=4096)
def _segment_ids(tokenizer: Tokenizer, segment: Segment) -> list[int]:
    return tokenizer.encode(Prompt([segment]))


class LessonMaker:
    """Lessons of a given kind and mode, recall of any length up to `limit` tokens."""

    def __init__(self, tokenizer: Tokenizer, rng: random.Random, limit: int) -> None:
        self._tokenizer = tokenizer
        self._rng = rng
        self._makers: dict[Kind, Maker] = {
            kind: make(rng, "train") for kind, make in MAKERS.items()
        }
        self._makers["recall"] = partial(_recall, rng, limit)

    def made(self, kind: Kind, mode: ThinkingMode) -> Lesson:
        most = mode == "thinking" and self._rng.random() < _MAX_EFFORT
        task, keep = self._makers[kind](mode), self._rng.random() < _KEPT
        return lesson_of(self._tokenizer, task, effort="max" if most else None, keep=keep)


def _recall(rng: random.Random, limit: int, mode: ThinkingMode) -> Task:
    """Drills, and lengths even on a logarithmic scale: as many of 200 to 400 tokens as of 1,000 to
    2,000."""
    if limit <= _DRILLS_ALONE or rng.random() < _DRILLS:
        return recall_drill(rng, mode, limit)
    low, high = math.log(_SHORTEST_RECALL), math.log(max(limit, _SHORTEST_RECALL + 1))
    return recall_task(rng, "train", mode, int(math.exp(rng.uniform(low, high))))


class Lessons:
    """Lessons of at most `limit` tokens; drawn by themselves they hold `SHARES` in tokens.

    Kinds of which fewer than a quarter of the lessons have at most `limit` tokens are left out, and
    those that are not among `kinds`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        rng: random.Random,
        limit: int,
        kinds: Collection[Kind] = tuple(SHARES),
    ) -> None:
        self._maker = LessonMaker(tokenizer, rng, limit)
        self._rng = rng
        self._limit = limit
        means = mean_tokens(tokenizer, limit)
        self._means = {one: tokens for one, tokens in means.items() if one[0] in kinds}
        total = sum(SHARES[kind] for kind, _ in self._means)
        self.shares: dict[KindAndMode, float] = {
            (kind, mode): SHARES[kind] / total for kind, mode in self._means
        }

    def draw(
        self, wanted: Mapping[KindAndMode, float] | None = None, chance: float | None = None
    ) -> Lesson:
        """The next lesson; `wanted` are other tokens of kinds and modes than those of `shares`.

        `chance` in [0, 1) takes the place of the random number that chooses kind and mode.
        """
        wanted = wanted or self.shares
        odds = list(accumulate(tokens / self._means[one] for one, tokens in wanted.items()))
        chance = self._rng.random() if chance is None else chance
        kind, mode = list(wanted)[bisect_right(odds, chance * odds[-1], hi=len(odds) - 1)]
        while True:
            lesson = self._maker.made(kind, mode)
            if len(lesson.ids) <= self._limit:
                return lesson


@lru_cache(maxsize=64)
def mean_tokens(tokenizer: Tokenizer, limit: int) -> Mapping[KindAndMode, float]:
    """Tokens of a lesson of each kind and mode, of those that have at most `limit`."""
    means: dict[KindAndMode, float] = {}
    for kind in SHARES:
        for mode in get_args(ThinkingMode):
            # Both modes from the same tasks, so that chance makes no difference between them.
            maker = LessonMaker(tokenizer, random.Random(f"{kind}/{limit}"), limit)
            lengths = [len(maker.made(kind, mode).ids) for _ in range(_MEASURED)]
            fitting = [length for length in lengths if length <= limit]
            if len(fitting) * 4 >= _MEASURED:
                means[kind, mode] = sum(fitting) / len(fitting)
    return means
