"""All experts of one layer in memory, and those of the next one on their way: for a prompt that
passes a layer at a time, so that every expert is read once for all of it.

>>> with_whole = model.streamed.whole_layers()
>>> for layer in ...:
...     with_whole.enter(layer)    # waits for its experts; the next layer's are read from now on
...     ...                        # all tokens pass the layer; what it computed is evaluated
...     with_whole.leave(layer)    # what the last tokens chose stays in the layer's slots
>>> with_whole.close()             # in any case; gives the memory back

Experts that slots hold are copied from there and not read. The last layer's are not staged: of a
prompt it computes for one token.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from time import perf_counter

import mlx.core as mx
import numpy as np

from dsv4_mlx.model.slot_products import products_of
from dsv4_mlx.model.streamed_experts import StreamedExperts, latest_last
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.weights.expert_slots import LayerParts, SlotArrays
from dsv4_mlx.weights.expert_store import ExpertStore
from metal_kernels.ops import Ops

SEED_TOKENS = 256
"""Last tokens of a prompt whose experts stay."""


class StagedLayers:
    """Two whole layers, for one prompt; `layers` are the model's, whose slots `store` has."""

    def __init__(
        self,
        config: DeepseekV4Config,
        ops: Ops,
        store: ExpertStore,
        layers: Mapping[int, StreamedExperts],
    ) -> None:
        self._config, self._ops, self._store, self._layers = config, ops, store, layers
        self._staged = sorted(layers)[:-1]
        self._buffers: list[tuple[LayerParts, SlotArrays] | None] = [None, None]
        self._reads: dict[int, list[Future[None]]] = {}
        self._chosen: dict[int, list[mx.array]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes that are taken at most."""
        sizes = sorted(p.layer.slot_bytes * p.layer.experts for p in self._store.pools.values())
        return sum(sizes[-2:])

    def enter(self, layer: int) -> None:
        """Let `layer` multiply by all its experts; CheckpointError for what could not be read."""
        if layer not in self._staged:
            return
        self._begin(layer)
        begin = perf_counter()
        failures = [e for read in self._reads.pop(layer) if (e := read.exception()) is not None]
        self._store.counts.waited += perf_counter() - begin
        if failures:
            raise failures[0]
        if layer + 1 in self._staged:
            self._begin(layer + 1)
        pool = self._store.pools[layer]
        matrices = self._arrays(layer).matrices
        products = products_of(self._config, self._ops, matrices, pool.layer.packings)
        self._chosen[layer] = []
        self._layers[layer].use_whole(products, self._chosen[layer])

    def leave(self, layer: int) -> None:
        """What `layer` computed is evaluated; of its experts those chosen last stay in slots."""
        if layer not in self._chosen:
            return
        self._layers[layer].use_whole(None)
        pool, chosen = self._store.pools[layer], self._chosen.pop(layer)
        if self._store.trace is not None:
            self._store.saw(layer, np.concatenate([np.array(call) for call in chosen]))
        ids = _last_rows(chosen)
        latest = latest_last(ids)[-pool.slots :] if len(ids) else []
        pool.seed(latest, self._arrays(layer))

    def close(self) -> None:
        """Let go of what was staged, once nothing writes to it."""
        for layer in self._chosen:
            self._layers[layer].use_whole(None)
        for reads in self._reads.values():
            for read in reads:
                read.exception()
        self._buffers, self._reads, self._chosen = [None, None], {}, {}
        mx.clear_cache()  # gigabytes, which MLX would keep for other arrays

    def _begin(self, layer: int) -> None:
        """Begin to fill a buffer with the experts of `layer`, unless that was begun."""
        if layer in self._reads:
            return
        pool, arrays = self._store.pools[layer], self._made(layer)
        self._reads[layer] = pool.read_whole(arrays)

    def _made(self, layer: int) -> SlotArrays:
        """The buffer of `layer`, of the right forms."""
        parts, number = self._store.pools[layer].layer, layer % 2
        kept = self._buffers[number]
        if kept is None or not kept[0].is_like(parts):
            self._buffers[number] = None  # before another one is made
            kept = parts, SlotArrays(parts, parts.experts)
            self._buffers[number] = kept
        return kept[1]

    def _arrays(self, layer: int) -> SlotArrays:
        kept = self._buffers[layer % 2]
        assert kept is not None
        return kept[1]


def _last_rows(chosen: list[mx.array]) -> np.ndarray:
    """The experts [M, k] of the last SEED_TOKENS tokens of calls, one after the other."""
    rows, count = [], 0
    for ids in reversed(chosen):
        rows.append(np.array(ids))
        count += len(rows[-1])
        if count >= SEED_TOKENS:
            break
    return np.concatenate(rows[::-1])[-SEED_TOKENS:] if rows else np.zeros((0, 1), np.uint32)
