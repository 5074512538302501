"""A batch of answers as packed tokens: what a policy reads, each prompt once for its group."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from dsv4_mlx.training.packing import SharedPrompts
from dsv4_mlx.training.rollouts import SampleBatch


@dataclass(frozen=True)
class PackedDrafts:
    """What an MTP block reads, and where its drafts of the answers' tokens are.

    It reads a stream with the token after it, so the last token of a prompt, which another one
    follows in each answer, is in each answer's part. Of its T places `streams` [T] says which of
    the backbone's stream each continues and `given` [T] with which token; `places` [n] are the
    drafts that count and `targets` [n] what they should be: all int32.
    """

    packing: SharedPrompts
    streams: np.ndarray
    given: np.ndarray
    places: np.ndarray
    targets: np.ndarray


class PackedBatch:
    """The tokens [T] int32 of a `SampleBatch` whose last ones are not read, as they predict none.

    Rows that follow one another and have the same prompt are a group; without padding.
    """

    def __init__(self, batch: SampleBatch):
        self._batch = batch
        rows, self._length = len(batch.tokens), batch.tokens.shape[1] - 1
        self._answers = np.bincount(batch.rows, minlength=rows)
        self._prompts = np.zeros(rows, int)
        """Tokens of each row's prompt; none where there is no answer to it."""
        self._prompts[batch.rows[::-1]] = batch.places[::-1] % self._length + 1
        self.packing = self._packing(0)
        self.tokens = batch.tokens[:, :-1].ravel()[self.packing.sources]
        self.places = self.packing.places.ravel()[batch.places]
        """Which of the T places predicts each of the M tokens of the answers: int32 [M]."""

    @property
    def drafts(self) -> PackedDrafts | None:
        """What the MTP block reads; None where no draft counts.

        The first token of an answer is drafted from the one before the prompt's last, if any.
        """
        batch, length = self._batch, self._length - 1
        row, position = np.divmod(batch.places, self._length)
        counts = position > 0
        if not counts.any():
            return None
        packing = self._packing(1)
        return PackedDrafts(
            packing,
            self.packing.places[:, :-1].ravel()[packing.sources],
            batch.tokens[:, 1:-1].ravel()[packing.sources],
            packing.places.ravel()[(row * length + position - 1)[counts]],
            batch.targets[counts],
        )

    def _packing(self, fewer: int) -> SharedPrompts:
        """Prompts with so many tokens fewer, which each of their answers has more of its own."""
        groups = []
        keys = [tuple(row[:n]) for row, n in zip(self._batch.tokens, self._prompts, strict=True)]
        for _, members in groupby(range(len(keys)), lambda row: keys[row]):
            own = list(members)
            before = max(0, len(keys[own[0]]) - fewer)
            read = np.maximum(0, self._prompts + self._answers - 1 - fewer)[own]
            groups.append((before, tuple(int(n) - before for n in read)))
        return SharedPrompts(groups, self._length - fewer)
