"""Rows that begin alike as one sequence: each prompt once, then the answers that go on from it.

What works on tokens one by one computes the same on T packed tokens [1, T] as on rows [B, S], once
for all that share a prompt. Attention and compression have to know what a token follows: that is
said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import numpy as np

from dsv4_mlx.model.rope import RotaryEmbedding

PromptGroup = tuple[int, tuple[int, ...]]
"""Tokens of a prompt, and of what goes on from it in each row of a group."""


@dataclass(frozen=True)
class PackedSegment:
    """Tokens [first, first + count) of a sequence, after `before` others from `prompt` on."""

    first: int
    count: int
    before: int
    prompt: int

    @property
    def tokens(self) -> np.ndarray:
        """Where its timeline's tokens are, from the first one on: [before + count]."""
        prompt = np.arange(self.prompt, self.prompt + self.before)
        return np.concatenate([prompt, np.arange(self.first, self.first + self.count)])


@dataclass(frozen=True)
class PackedEntries:
    """What compression makes of a sequence: E entries, a prompt's once.

    `places` int32 [E, R or 2 R]: the tokens of each, -1 before the first; `numbers` int32 [E]: the
    place in its timeline. `segments` int32 [G, 8] say of each segment where its tokens and entries
    are, as `native/attention.h` has it.
    """

    places: mx.array
    numbers: mx.array
    segments: mx.array


class SharedPrompts:
    """Where the tokens of rows [B, `length`] are among those of groups that follow one another."""

    def __init__(self, groups: Sequence[PromptGroup], length: int):
        self._groups: list[list[PackedSegment]] = []
        count = 0
        for before, more in groups:
            prompt, count = count, count + before
            self._groups.append([PackedSegment(prompt, before, 0, prompt)])
            for own in more:
                self._groups[-1].append(PackedSegment(count, own, before, prompt))
                count += own
        segments = [one for group in self._groups for one in group]
        self.longest = max(one.before + one.count for one in segments)
        """Tokens of the longest timeline."""
        self.positions = np.zeros(count, np.int32)
        """Of each token in its timeline: [T]."""
        for one in segments:
            at = one.tokens[one.before :]
            self.positions[at] = one.before + np.arange(one.count)
        rows = [one for group in self._groups for one in group[1:]]
        self.places = np.zeros((len(rows), length), np.int32)
        """Of each token of a row in the sequence: [B, `length`]; 0 where the row has ended."""
        self.sources = np.zeros(count, np.int32)
        """Of each token of the sequence among the B `length` of the rows, in one of them: [T]."""
        for number, one in reversed(list(enumerate(rows))):
            at = one.tokens
            self.places[number, : len(at)] = at
            self.sources[at] = number * length + np.arange(len(at))
        self._made: dict[tuple[int, bool], PackedEntries] = {}

    def entries(self, ratio: int, overlaps: bool = False) -> PackedEntries:
        """Those of one per `ratio` tokens, which read the tokens of the one before as well where it
        `overlaps`; none where `ratio` is 0."""
        if (ratio, overlaps) not in self._made:
            self._made[ratio, overlaps] = self._entries(ratio, overlaps)
        return self._made[ratio, overlaps]

    def _entries(self, ratio: int, overlaps: bool) -> PackedEntries:
        slots = np.arange(-ratio if overlaps else 0, ratio)
        places, numbers, segments, made = [np.zeros((0, len(slots)), int)], [], [], 0
        for group in self._groups:
            of_prompt = made
            for one in group:
                shared, total = one.before, one.before + one.count
                shared, total = (n // ratio if ratio else 0 for n in (shared, total))
                place = one.first, one.count, one.before, one.prompt
                segments.append((*place, made, of_prompt, shared, total))
                own = np.arange(shared, total)
                at = own[:, None] * ratio + slots
                places.append(np.where(at < 0, -1, one.tokens[np.maximum(at, 0)]))
                numbers.append(own)
                made += len(own)
        every = np.concatenate(places), np.concatenate(numbers), np.array(segments)
        return PackedEntries(*(mx.array(one.astype(np.int32)) for one in every))

    def rotary(self, rope: RotaryEmbedding) -> tuple[mx.array, mx.array]:
        """Cosines and sines [T, R / 2] of the tokens' positions."""
        cos, sin = rope.of(None, 0, self.longest)
        at = mx.array(self.positions)
        return cos[at], sin[at]

    def unpacked(self, x: mx.array) -> mx.array:
        """Packed tokens [1, T, D] as rows [B, `length`, D]."""
        return x[0][mx.array(self.places)]

    def packed(self, x: mx.array) -> mx.array:
        """Rows [B, `length`, D] as packed tokens [1, T, D]; a prompt's are those of its first."""
        return x.reshape(-1, x.shape[-1])[mx.array(self.sources)][None]


@lru_cache(maxsize=16)
def rows_of(rows: int, length: int) -> SharedPrompts:
    """Rows of one length that share nothing, one after the other."""
    return SharedPrompts([(length, ())] * rows, length)
