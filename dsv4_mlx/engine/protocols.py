"""What an engine asks of a model, of its compiled step and of the functions of its cache."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from dsv4_mlx.cache import CacheBytes, CacheOutline, DraftState
from dsv4_mlx.release.config import DeepseekV4Config

Cache = list[Any]
"""The state of a model after some tokens, one entry per layer; its model knows what they are."""


class Flag(Protocol):
    """A `threading.Event`, as far as it matters here."""

    def is_set(self) -> bool: ...


class CacheFunctions(Protocol):
    """What a session does with a model's cache; the module `dsv4_mlx.cache` is one."""

    def snapshot(self, cache: Cache, /) -> Any: ...

    def restore(self, cache: Cache, snapshot: Any, /) -> None: ...

    def mark(self, cache: Cache, offsets: Iterable[int], /) -> None:
        """Let the model's next call remember the moments after `offsets` tokens, inside of it."""
        ...

    def marked(self, cache: Cache, /) -> Sequence[Any]:
        """Snapshots of these moments, in order, once the call was made."""
        ...

    def fork(self, cache: Cache, /) -> Cache: ...

    def compacted(self, moments: Sequence[Any], /) -> Sequence[Any]:
        """The same snapshots of one timeline, holding no more than the last of them sees."""
        ...

    def begin(self, cache: Cache, /) -> None:
        """Open a block: of the rows read until `commit`, as many stay as that says."""
        ...

    def commit(self, cache: Cache, keep: int, /) -> None:
        """Keep the first `keep` rows of the block, as if the others had never been read."""
        ...

    def side_by_side(self, caches: Sequence[Cache], /) -> Cache:
        """What the model is called with for tokens [1, B], one of each of B timelines."""
        ...

    def standing(self, caches: Sequence[Cache], /) -> Callable[[], None]:
        """What takes timelines back to here from a call that failed while it was made."""
        ...

    def drafts_of(self, cache: Cache, /) -> DraftState | None:
        """What a drafter knew of the timeline where it stands."""
        ...

    def keep_drafts(
        self,
        cache: Cache,
        state: DraftState | None,
        moments: Mapping[int, DraftState] | None = None,
        /,
    ) -> None:
        """Let the timeline have this state, and the moments that `mark` asked for theirs."""
        ...

    def evaluated(self, cache: Cache, /) -> list[mx.array]:
        """Every array that must be evaluated for the state to exist."""
        ...

    def sizes(self, cache: Cache, /) -> CacheBytes:
        """What the cache holds in bytes, by its parts."""
        ...

    def save(
        self,
        path: str | Path,
        cache: Cache,
        /,
        *,
        fingerprint: str,
        tokens: list[int],
        notes: dict[str, str],
        beside: dict[str, mx.array],
        places: Sequence[Any],
        parent: str = "",
        since: int = 0,
    ) -> None:
        """Write `cache` to a file, with texts and arrays of the caller's.

        `places` are snapshots of its earlier moments, in order. What lies before `since` tokens is
        in the file `parent` of the same folder, where one is named.
        """
        ...

    def outline(self, path: str | Path, /) -> CacheOutline:
        """What a file holds, without reading its states."""
        ...

    def load(
        self, path: str | Path, /, *, model: Any, fingerprint: str
    ) -> tuple[Cache, list[int], dict[str, str], dict[str, mx.array], Sequence[Any]]:
        """Cache, tokens, notes, arrays beside and places that `save` was given."""
        ...


class LanguageModel(Protocol):
    """What an engine asks of a model."""

    config: DeepseekV4Config

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        """Token ids [B, S] -> logits [B, S, V] float32."""
        ...

    def last_logits(self, tokens: mx.array, cache: Cache) -> mx.array:
        """The same after the last of the tokens alone, [B, V]."""
        ...

    def make_cache(self) -> Cache: ...

    @property
    def fingerprint(self) -> str:
        """A name of weights and numerics; a saved timeline fits only the same one."""
        ...


class Step(Protocol):
    """A model's `last_logits` of one token by a graph that is built once."""

    def keep_up(self) -> None:
        """Notice weights that were replaced."""
        ...

    def last_logits(self, tokens: mx.array, cache: Cache) -> mx.array: ...

    def logits_together(
        self, tokens: mx.array, caches: Sequence[Cache], features: bool
    ) -> tuple[mx.array, Any]:
        """Logits [B, V] after one more token [1, B] of each of B timelines, and what drafts are
        made from where that is asked for."""
        ...
