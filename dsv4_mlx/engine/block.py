"""Rows that the model read of a timeline ahead of its caller: a token and the drafts after it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx


@dataclass
class DraftBlock:
    """Tokens, and of each the logits [V] and the features.

    The first `kept` rows are tokens of the timeline; the others may yet become it.
    """

    rows: Sequence[int]
    logits: list[mx.array] = field(default_factory=list)
    features: list[Any] = field(default_factory=list)
    kept: int = 1

    def add(self, logits: mx.array, features: Any) -> None:
        """The next row has been read."""
        self.logits.append(logits)
        self.features.append(features)

    @property
    def is_used_up(self) -> bool:
        """Whether every row is a token of the timeline."""
        return self.kept == len(self.rows)

    def kept_rows(self) -> list[int]:
        """The rows that stay."""
        return list(self.rows[: self.kept])

    def kept_features(self) -> Any:
        """Features of the rows that stay, [1, kept, ...]; None without any."""
        kept = self.features[: self.kept]
        return None if kept[0] is None else mx.concatenate(kept, axis=1)
