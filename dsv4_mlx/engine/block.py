"""What the model read of a timeline ahead of its caller: a token, alone or with drafts after it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import mlx.core as mx

from dsv4_mlx.engine.drafters import Features, ids_of
from dsv4_mlx.engine.draws import PendingDraw


class StartedStep(NamedTuple):
    """A token under way that the state has taken in, and the timeline not yet."""

    drawing: PendingDraw
    following: mx.array
    """Logits [V] after it."""
    features: Features


@dataclass
class DraftBlock:
    """Tokens, and of each the logits [V] and the features.

    The first `kept` rows are tokens of the timeline; the others may yet become it.
    """

    ids: mx.array | list[int]
    """The token and the drafts, [n]."""
    logits: list[mx.array] = field(default_factory=list)
    features: list[Any] = field(default_factory=list)
    """Of every call [1, m, ...], its m rows."""
    kept: int = 1

    @cached_property
    def rows(self) -> list[int]:
        """The tokens as numbers; drafts of a device are waited for."""
        return ids_of(self.ids)

    def add(self, logits: mx.array, features: Features) -> None:
        """The next rows have been read: logits [m, V]."""
        self.logits += [logits[row] for row in range(logits.shape[0])]
        self.features.append(features)

    def arrays(self) -> list[mx.array]:
        """What has to be evaluated before a row is looked at."""
        return [*self.logits, self.ids] if isinstance(self.ids, mx.array) else list(self.logits)

    @property
    def is_used_up(self) -> bool:
        """Whether every row is a token of the timeline."""
        return self.kept == len(self.ids)

    def kept_rows(self) -> list[int]:
        """The rows that stay."""
        return self.rows[: self.kept]

    def kept_features(self) -> Features:
        """Features of the rows that stay, [1, kept, ...]; None without any."""
        if self.features[0] is None:
            return None
        rows = self.features
        whole = rows[0] if len(rows) == 1 else mx.concatenate(rows[: self.kept], axis=1)
        return whole[:, : self.kept]
