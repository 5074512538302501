"""The model that rank 0's engine runs: the worker's layers, its own, and the head."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.device.memory import HeldMemory
from dsv4_mlx.errors import PipelineError, UsageError
from dsv4_mlx.pipeline.control import Control
from dsv4_mlx.pipeline.link import Link, LinkCounts
from dsv4_mlx.pipeline.messages import PipeOperation
from dsv4_mlx.pipeline.part import ModelPart
from dsv4_mlx.pipeline.piped_caches import CallAhead, PipedCache, PipedCaches


class PipelineModel:
    """Token ids -> logits over two ranks; a language model of `dsv4_mlx.engine`.

    One thread makes all calls, as with any model. A call waits until the worker's streams are here.
    """

    weights_elsewhere = True

    def __init__(self, part: ModelPart, group: Any, control: Control) -> None:
        """`part` are rank 0's layers; the worker has the others, or PipelineError."""
        self.part, self.config, self.layout = part, part.config, part.layout
        self.numerics = part.numerics
        self._link = Link(group, control, part.stream_dtype)
        self._width = part.config.hc_mult, part.config.hidden_size
        facts = self._link.facts()
        _require_other_part(part, facts, control.peer)
        self.caches = PipedCaches(part, self._link)
        self.pipeline: dict[str, Any] = {
            "ranks": 2,
            "layers": [[part.own.start, part.own.stop], facts["layers"]],
            "bytes_loaded": [part.bytes_loaded, facts["bytes_loaded"]],
        }
        """Of both ranks, rank 0 first: layers [from, to) and bytes read from files for them."""

    def __call__(self, tokens: mx.array, cache: PipedCache | None = None) -> mx.array:
        """Token ids [B, S] -> logits [B, S, V] float32; `cache` moves on by S tokens."""
        return self.part.logits(self._streams(tokens, cache, last=False))

    def last_logits(self, tokens: mx.array, cache: PipedCache | None = None) -> mx.array:
        """Logits after the last of the tokens alone, [B, V]."""
        return self.part.logits(self._streams(tokens, cache, last=True))[:, 0]

    def make_cache(self) -> PipedCache:
        """An empty cache on both ranks."""
        return self.caches.new()

    def read_ahead(self, cache: PipedCache, tokens: Sequence[int], inside: Collection[int]) -> None:
        """Say before a call what the call after it will read: `tokens`, and which moments inside
        of it will be marked. The worker begins with them while rank 0 is busy with the first."""
        ids = np.array([tokens], np.int32)
        cache.following = (ids, sorted(inside)) if len(tokens) else None

    def end_reading(self, cache: PipedCache) -> None:
        """What was said of the call to come does not hold: the prompt ends before it."""
        cache.following = None
        self.caches.settle(cache)

    @property
    def counts(self) -> LinkCounts:
        """What went to the worker and back so far."""
        return self._link.counts

    def close(self) -> None:
        """Let the worker end."""
        self._link.quit()

    def _streams(self, tokens: mx.array, cache: PipedCache | None, *, last: bool) -> mx.array:
        """Streams after the last layer, [B, S, N, D], or with `last` [B, 1, N, D]."""
        if tokens.ndim != 2 or tokens.size == 0:
            raise UsageError(
                f"expected token ids [B, S] with at least one token but found {tokens.shape}."
            )
        cache = self.make_cache() if cache is None else cache
        ids = np.array(tokens.astype(mx.int32))
        coming = self._asked(cache, ids)
        streams = self._link.streams(coming)
        self._begin_next(cache, cache[0].offset + ids.shape[1])
        streams = streams.astype(mx.float32)
        return self.part.through(streams, mx.array(ids), cache, last=last)

    def _asked(self, cache: PipedCache, ids: "np.ndarray[Any, Any]") -> Any:
        """The call that is under way for these ids, or a new one."""
        ahead = cache.ahead
        if ahead is not None and np.array_equal(ahead.ids, ids):
            cache.ahead, cache.marks = None, ahead.inside
            return ahead.coming
        self.caches.settle(cache)
        return self._link.call(cache.held, ids, self._width)

    def _begin_next(self, cache: PipedCache, start: int) -> None:
        """Let the worker begin with what follows, at `start` tokens, if it was told."""
        if cache.following is None:
            return
        (ids, inside), cache.following = cache.following, None
        marked = self.caches.remembered(cache)
        before, number = self._link.held(), cache.held.number
        self._link.tell(PipeOperation.SNAPSHOT, number, before.number)
        if inside:
            self._link.tell(PipeOperation.MARK, number, ids=inside)
        coming = self._link.call(cache.held, ids, self._width, ahead=True)
        cache.ahead = CallAhead(ids, inside, start, before, marked, coming)

    @property
    def fingerprint(self) -> str:
        """Names what decides a timeline's state: the same as of the model on one machine."""
        return self.part.fingerprint

    @property
    def weights_fingerprint(self) -> str:
        """Names all weights."""
        return self.part.weights_fingerprint

    @property
    def earlier_fingerprints(self) -> Sequence[str]:
        """What older cache files carry."""
        return self.part.earlier_fingerprints

    @property
    def memory(self) -> HeldMemory:
        """What stays resident for rank 0's layers."""
        return self.part.memory

    @property
    def explain(self) -> Callable[[BaseException], None] | None:
        """What raises a sentence for an error of MLX that a kernel is to blame for."""
        return self.part.explain

    @property
    def left_out(self) -> tuple[str, ...]:
        """Kernels that run by their slower references, as somebody asked."""
        return self.part.left_out

    def kernel_plan(self) -> dict[str, str]:
        """Which implementation every kernel of rank 0 runs; `layers` are piped."""
        return {**self.part.kernel_plan(), "layers": "piped"}


def _require_other_part(part: ModelPart, facts: dict[str, Any], peer: str) -> None:
    """PipelineError unless the worker has the layers before `part` of the same model."""
    layers = part.config.num_hidden_layers
    own = {
        "layers": [0, part.own.start],
        "fingerprint": part.fingerprint,
        "numerics": part.numerics.value,
        "layout": part.layout.name,
    }
    for name, expected in own.items():
        if facts[name] != expected or part.own.stop != layers:
            raise PipelineError(
                f"expected {peer} to have {name} {expected} but found {facts[name]}; give both "
                "ranks the same model, settings and version."
            )
