"""What a drafter knows of a timeline: a part of the timeline, which goes wherever it goes.

A drafter works on rings of its own and gives a `DraftState` whenever it has absorbed tokens:

    keep_drafts(cache, state, {offset: state_there})     # `offset`: moments that `mark` asked for
    drafts_of(cache)       # what to go on from, after restore, fork or load; None: begin cold

Snapshots, forks, places and files take the state with them. Without one, or with another
drafter's, a timeline is as good as ever and drafting begins cold; drafts never decide a token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.layouts import EntryLayout
from dsv4_mlx.errors import CacheError
from dsv4_mlx.release.config import DeepseekV4Config


@dataclass(frozen=True)
class DraftState:
    """Arrays of fixed size after `offset` tokens; they are replaced and never assigned into."""

    drafter: str
    """Whose they are, so that no other one goes on from them."""
    offset: int
    """Tokens of the timeline that it had absorbed; it begins cold where the timeline has others."""
    arrays: Mapping[str, mx.array] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())


class TimelineCache(list[LayerCache]):
    """A model's cache, one entry per layer, and what a drafter knows of the same timeline."""

    drafts: DraftState | None = None

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        self.draft_moments: dict[int, DraftState] = {}
        """The same at moments inside of the call that is under way."""

    def drafted(self) -> list[mx.array]:
        """The arrays of all of them."""
        states = [*self.draft_moments.values(), *([] if self.drafts is None else [self.drafts])]
        return [array for state in states for array in state.arrays.values()]


def new_cache(config: DeepseekV4Config, layout: EntryLayout) -> list[LayerCache]:
    """An empty cache of a whole model: a single timeline for every layer of the backbone."""
    return TimelineCache(LayerCache(role, layout) for role in config.layer_roles)


def drafts_of(cache: Sequence[LayerCache]) -> DraftState | None:
    """What a drafter knew of the timeline where `cache` stands; None where it begins cold."""
    return cache.drafts if isinstance(cache, TimelineCache) else None


def keep_drafts(
    cache: Sequence[LayerCache],
    state: DraftState | None,
    moments: Mapping[int, DraftState] | None = None,
) -> None:
    """Let the timeline of `cache` have this state, and moments that `mark` asked for theirs.

    CacheError for a list of layers that no `make_cache` of a model made.
    """
    if not isinstance(cache, TimelineCache):
        if state is None and not moments:
            return
        raise CacheError(
            "expected the cache of a model but found a plain list, which has no place for drafts; "
            "take what make_cache gave."
        )
    cache.drafts = state
    cache.draft_moments = dict(moments or {})
