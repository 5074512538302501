"""Three kinds of rows that a small model is trained on and measured with.

Text is the reference of the Python language, which every Python brings along as a module. Needle
rows are blocks that plant pairs of a key and a value in such text and then ask for each: the answer
stands in the context. Fact rows tell where people live, the same in every row: the answer stands in
the weights. Held out are one topic of the reference in ten, other needles, and one wording of every
fact.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

import numpy as np

from dsv4_mlx.errors import UsageError

TEXT_VOCAB = 512
NOTE, ASK, LIVES, IN, HOME, OF, IS, END = range(TEXT_VOCAB, TEXT_VOCAB + 8)
KEYS, VALUES, FIRST_NAMES, LAST_NAMES, TOWNS = (
    range(TEXT_VOCAB + 16 * start, TEXT_VOCAB + 16 * stop)
    for start, stop in ((1, 2), (2, 3), (3, 5), (5, 7), (7, 8))
)
VOCAB = TEXT_VOCAB + 8 * 16
"""Byte pairs of the text, eight words, 16 keys, 16 values, 32 first and 32 last names, 16 towns."""

FACTS, FEWEST, MOST, FILLER = 256, 2, 8, 160
"""Facts of a world; pairs of a block, and the most tokens of text between them."""
ANSWER, ELSEWHERE = 4.0, 0.1  # weights of a target; of text alone it is one


@dataclass(frozen=True)
class Fact:
    """A person of two names and a town; `held_out` is the wording that no training row uses."""

    first: int
    last: int
    town: int
    held_out: int

    def told(self, wording: int) -> list[int]:
        """The fact as token ids; its town is the last but one."""
        name = [self.first, self.last]
        if wording == 0:
            return [*name, LIVES, IN, self.town, END]
        if wording == 1:
            return [HOME, OF, *name, IS, self.town, END]
        return [*name, IS, OF, self.town, END]


@dataclass(frozen=True)
class Batch:
    """Token ids [B, S + 2] and what each is worth as a target, float32 [B, S + 2]."""

    tokens: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Asked:
    """Rows [B, S] and where in them answers stand: (row, position) by the name of their group."""

    tokens: np.ndarray
    answers: Mapping[str, tuple[tuple[int, int], ...]]


@lru_cache(maxsize=1)
def texts() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of the topics that are trained on, and of those that are held out."""
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.testing.tokenizers import write_tokenizer

    topics = _topics()
    kept = [text for number, text in enumerate(topics) if number % 10]
    held_out = [text for number, text in enumerate(topics) if not number % 10]
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(folder, kept, TEXT_VOCAB)
        tokenizer = Tokenizer(folder)
        return tuple(tokenizer.encode("\n\n".join(kept))), tuple(
            tokenizer.encode("\n\n".join(held_out))
        )


def _topics() -> list[str]:
    try:
        found = import_module("pydoc_data.topics").topics
    except ModuleNotFoundError:
        raise UsageError(
            "expected Python's own reference, the module pydoc_data.topics, but this Python has "
            "none; install the full standard library, or take another Python."
        ) from None
    return [found[name] for name in sorted(found)]


@lru_cache(maxsize=8)
def facts(seed: int) -> tuple[Fact, ...]:
    """The people of one world."""
    rng = random.Random(f"facts/{seed}")
    names = rng.sample([(a, b) for a in FIRST_NAMES for b in LAST_NAMES], FACTS)
    return tuple(
        Fact(first, last, rng.choice(TOWNS), number % 3)
        for number, (first, last) in enumerate(names)
    )


def batch(seed: int, step: int, rows: int, length: int, *, alone: bool = False) -> Batch:
    """The batch of one step: of eight rows in turn three are text, three needles, two facts.

    With `alone` all of them are needles.
    """
    rng = random.Random(f"train/{seed}/{step}")
    order = "n" if alone else "tnfttnfn"
    kinds = [_ROWS[order[(step * rows + number) % len(order)]] for number in range(rows)]
    tokens, weights = zip(*[kind(rng, seed, length + 2) for kind in kinds], strict=True)
    return Batch(np.array(tokens, np.int32), np.array(weights, np.float32))


def _text_row(rng: random.Random, seed: int, size: int) -> tuple[list[int], list[float]]:
    return _cut(texts()[0], rng, size), [1.0] * size


def _needle_row(rng: random.Random, seed: int, size: int) -> tuple[list[int], list[float]]:
    tokens, answers = needle_row(rng, texts()[0], size)
    weights = [ELSEWHERE] * size
    for position in answers:
        weights[position - 1] = 0.0  # the key that is asked for was drawn
        weights[position] = ANSWER
    return tokens, weights


def needle_row(
    rng: random.Random, text: Sequence[int], size: int
) -> tuple[list[int], dict[int, int]]:
    """A row of blocks and {position of an answer: tokens since its key was planted}."""
    tokens: list[int] = []
    answers: dict[int, int] = {}
    while len(tokens) < size:
        block, asked = _block(rng, text)
        answers |= {len(tokens) + position: distance for position, distance in asked.items()}
        tokens += block
    return tokens[:size], {p: distance for p, distance in answers.items() if p < size}


def _block(rng: random.Random, text: Sequence[int]) -> tuple[list[int], dict[int, int]]:
    """Pairs with text between them, then each key once, as `needle_row` has it.

    Many blocks are short, so that recall begins with what is near and goes on to what is far.
    """
    count = rng.randint(FEWEST, MOST)
    filler = _cut(text, rng, int(math.exp(rng.uniform(0, math.log(FILLER)))) - 1)
    pairs = dict(zip(rng.sample(KEYS, count), rng.sample(VALUES, count), strict=True))
    places = sorted(rng.randint(0, len(filler)) for _ in pairs)
    tokens = filler[: places[0]]
    planted: dict[int, int] = {}
    for (key, value), start, stop in zip(
        pairs.items(), places, [*places[1:], len(filler)], strict=True
    ):
        planted[key] = len(tokens) + 1
        tokens += [NOTE, key, value, *filler[start:stop]]
    answers = {}
    for key in rng.sample(list(pairs), count):
        tokens += [ASK, key, pairs[key]]
        answers[len(tokens) - 1] = len(tokens) - 2 - planted[key]
    return [*tokens, END], answers


def _fact_row(rng: random.Random, seed: int, size: int) -> tuple[list[int], list[float]]:
    tokens: list[int] = []
    weights: list[float] = []
    while len(tokens) < size:
        fact = rng.choice(facts(seed))
        told = fact.told(rng.choice([w for w in range(3) if w != fact.held_out]))
        tokens += told
        weights += [ELSEWHERE] * (len(told) - 2) + [ANSWER, ELSEWHERE]
    return tokens[:size], weights[:size]


_ROWS = {"t": _text_row, "n": _needle_row, "f": _fact_row}


def held_out_text(rows: int, length: int) -> np.ndarray:
    """Held-out text, int32 [rows, length + 1]: as many pieces, evenly spread."""
    text = texts()[1]
    starts = np.linspace(0, len(text) - length - 1, rows).astype(int)
    return np.array([text[start : start + length + 1] for start in starts], np.int32)


def held_out_needles(rows: int, length: int, window: int, ratio: int) -> Asked:
    """Needle rows of held-out text; answers by what of attention sees their pair.

    "near": the pair is in the window. "csa": it is beyond, and the entry of `ratio` tokens that it
    belongs to is still open, so that only the shorter entries hold it. "hca": that one is closed.
    """
    rng = random.Random("needles")
    made = [needle_row(rng, texts()[1], length + 1) for _ in range(rows)]
    groups: dict[str, list[tuple[int, int]]] = {"near": [], "csa": [], "hca": []}
    for row, (_, found) in enumerate(made):
        for position, distance in found.items():
            asking = position - 1
            closed = (asking - distance + 1) // ratio < (asking + 1) // ratio
            group = "near" if distance <= window else "hca" if closed else "csa"
            groups[group].append((row, position))
    tokens = np.array([tokens for tokens, _ in made], np.int32)
    return Asked(tokens, {name: tuple(places) for name, places in groups.items()})


def held_out_facts(seed: int, length: int) -> Asked:
    """Every fact once, in the wording that no training row uses."""
    rows: list[list[int]] = [[]]
    answers = []
    for fact in facts(seed):
        told = fact.told(fact.held_out)
        if len(rows[-1]) + len(told) > length + 1:
            rows.append([])
        rows[-1] += told
        answers.append((len(rows) - 1, len(rows[-1]) - 2))
    padded = [row + [END] * (length + 1 - len(row)) for row in rows]
    return Asked(np.array(padded, np.int32), {"facts": tuple(answers)})


def _cut(text: Sequence[int], rng: random.Random, size: int) -> list[int]:
    start = rng.randrange(len(text) - size)
    return list(text[start : start + size])
