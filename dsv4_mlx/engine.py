"""Running a model: ``Engine`` is the loaded model, ``Session`` one timeline of token ids.

>>> session = Engine(model).session()
>>> session.sync(prompt_ids)                      # reads what the timeline does not hold yet
>>> for token in session.stream(max_tokens=100):  # the timeline grows by every token yielded
...     print(token.id, token.logprob)

MLX ties lazy arrays to the thread that made them: use an engine and its sessions on one thread.
Only the ``cancel`` flags may be set from elsewhere.
"""

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from dsv4_mlx import cache
from dsv4_mlx.cache import CacheBytes
from dsv4_mlx.config import DeepseekV4Config
from dsv4_mlx.errors import PromptError, UsageError
from dsv4_mlx.session import Cache, Session, SessionSnapshot, Sync

__all__ = [
    "PREFILL_CHUNK",
    "SNAPSHOT_BYTES",
    "Cache",
    "CacheBytes",
    "CacheFunctions",
    "Engine",
    "Flag",
    "LanguageModel",
    "Session",
    "SessionSnapshot",
    "Sync",
]

PREFILL_CHUNK = 512
SNAPSHOT_BYTES = 1 << 30


class Flag(Protocol):
    """A ``threading.Event``, as far as it matters here."""

    def is_set(self) -> bool: ...


class CacheFunctions(Protocol):
    """What a session does with a model's cache; ``dsv4_mlx.cache`` is one."""

    def snapshot(self, cache: Cache, /) -> Any: ...

    def restore(self, cache: Cache, snapshot: Any, /) -> None: ...

    def fork(self, cache: Cache, /) -> Cache: ...

    def evaluated(self, cache: Cache, /) -> list[mx.array]:
        """Every array that must be evaluated for the state to exist."""
        ...

    def sizes(self, cache: Cache, /) -> CacheBytes:
        """What the cache holds, by its parts."""
        ...

    def save(
        self,
        path: str | Path,
        cache: Cache,
        /,
        *,
        fingerprint: str,
        tokens: list[int],
        metadata: dict[str, str],
        places: Sequence[Any],
    ) -> None:
        """``places`` are snapshots of earlier moments of ``cache``, in their order."""
        ...

    def load(
        self, path: str | Path, /, *, model: Any, fingerprint: str
    ) -> tuple[Cache, list[int], dict[str, str], Sequence[Any]]:
        """What ``save`` was given."""
        ...


class LanguageModel(Protocol):
    """What an engine asks of a model."""

    config: DeepseekV4Config

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        """Token ids [B, S] -> logits [B, S, V] float32."""
        ...

    def make_cache(self) -> Cache: ...

    @property
    def fingerprint(self) -> str:
        """Names weights and numerics; a saved timeline fits only the same one."""
        ...


class Engine:
    """A loaded model and how it is run. It knows token ids only.

    ``prefill_chunk`` tokens are read at a time; ``snapshot_bytes`` bounds the automatic
    snapshots of each session. ``caches`` replaces ``dsv4_mlx.cache`` for a model with its own.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        prefill_chunk: int = PREFILL_CHUNK,
        snapshot_bytes: int = SNAPSHOT_BYTES,
        caches: CacheFunctions | None = None,
    ):
        if prefill_chunk < 1:
            raise UsageError(f"prefill_chunk must be 1 or more, got {prefill_chunk}.")
        self.model = model
        self.config = model.config
        self.prefill_chunk = prefill_chunk
        self.snapshot_bytes = snapshot_bytes
        self.caches: CacheFunctions
        if caches is None:
            self.caches = cache
        else:
            self.caches = caches

    @property
    def max_context(self) -> int:
        """Tokens of prompt and reply together."""
        return self.config.max_position_embeddings

    @property
    def backend(self) -> str | None:
        """What the model's kernels run on; None for a model that does not tell."""
        plan = getattr(self.model, "kernel_plan", None)
        return None if plan is None else str(plan()["backend"])

    def session(self) -> Session:
        """A new, empty timeline."""
        return Session(self)

    def check(self, tokens: Sequence[int]) -> list[int]:
        """``tokens`` as whole numbers; PromptError if no reply to them is possible."""
        ids = [operator.index(token) for token in tokens]
        if not ids:
            raise PromptError("The prompt is empty; give at least one token.")
        if len(ids) >= self.max_context:
            raise PromptError(
                f"The prompt has {len(ids):,} tokens and the model's context holds "
                f"{self.max_context:,}, the reply included; shorten it."
            )
        wrong = next((i for i, t in enumerate(ids) if not 0 <= t < self.config.vocab_size), None)
        if wrong is not None:
            raise PromptError(
                f"Token {wrong} of the prompt is {ids[wrong]}; the model's vocabulary ends at "
                f"{self.config.vocab_size - 1}, so this tokenizer is not the model's."
            )
        return ids
