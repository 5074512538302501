"""Loading a model whose routed experts stay in their files: which ones, how many slots, and the
layers that read them. `loading.load(expert_memory=...)` is the door.

`model.streamed` is a `StreamedModel` then: `.layers` by number, `.facts` the `ExpertStore` with its
slots, counters and trace. Everything else about the model is as ever, but for drafts and the
compiled step, which it has not.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dsv4_mlx.device.memory import usable_memory
from dsv4_mlx.errors import BackendError
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.router import HashRouter
from dsv4_mlx.model.slot_products import products_of
from dsv4_mlx.model.streamed_experts import StreamedExperts
from dsv4_mlx.model.streamed_model import StreamedModel
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.sizing.costs import Kv
from dsv4_mlx.sizing.expert_memory import expert_slots, few_slots, require_fitting
from dsv4_mlx.sizing.passes import OFFICIAL_BYTES
from dsv4_mlx.sizing.prefill import CONTEXT
from dsv4_mlx.weights.expert_files import without_experts
from dsv4_mlx.weights.expert_slots import LayerParts
from dsv4_mlx.weights.expert_store import ExpertStore, layer_parts
from dsv4_mlx.weights.parameters import ParameterPlan
from dsv4_mlx.whole_layers import StagedLayers

if TYPE_CHECKING:
    from dsv4_mlx.model.v4 import Model


class StreamedPlan:
    """A plan without routed experts and draft blocks, `kept`, and `slots` for experts of each of
    `layers`."""

    def __init__(
        self,
        config: DeepseekV4Config,
        kept: ParameterPlan,
        layers: Mapping[int, LayerParts],
        slots: int,
    ) -> None:
        self.kept, self.layers, self.slots = kept, layers, slots
        self._config = config
        self._layer_bytes = sum(layer.slot_bytes for layer in layers.values())
        self._store: ExpertStore | None = None
        self._experts: dict[int, StreamedExperts] = {}

    @property
    def slot_bytes(self) -> int:
        """Bytes of all slots of all layers."""
        return self.slots * self._layer_bytes

    def room_for(
        self,
        backend: str,
        resident: int,
        context: int | None,
        kv: Kv,
        say: Callable[[str], None] | None,
        numerics: Numerics = Numerics.OFFICIAL,
    ) -> int:
        """Bytes of all slots; UsageError where they do not fit beside `resident` bytes and a cache
        of `context` tokens, BackendError where they cannot be filled. Few slots are a sentence for
        `say`, by default of the log."""
        if backend == "cuda":
            raise BackendError(
                "experts are read into memory that CPU and GPU share, expected Metal or the CPU "
                "but found CUDA; leave expert_memory out."
            )
        context = min(context or CONTEXT, self._config.max_position_embeddings)
        limit = usable_memory()
        number_bytes = OFFICIAL_BYTES if numerics is Numerics.OFFICIAL else 4
        require_fitting(
            self._config, resident, self.slots, self._layer_bytes, limit, context, kv, number_bytes
        )
        if sentence := few_slots(self._config, self.slots):
            (say or logging.getLogger("dsv4_mlx").warning)(sentence)
        return self.slot_bytes

    def use_in(self, model: "Model") -> None:
        """Give the layers of `model` slots in the place of parameters; CheckpointError for files
        that cannot be opened."""
        store = self._store = ExpertStore(self.layers, self.slots)
        for number, pool in store.pools.items():
            packings = pool.layer.packings
            products = products_of(model.config, model.ops, pool.arrays.matrices, packings)
            experts = StreamedExperts(number, products, pool, store)
            self._experts[number] = model.layers[number].mlp["experts"] = experts
        model.weights_elsewhere = True

    def begin(self, model: "Model") -> None:
        """Once nothing else of the files is read: keep them out of the system's file cache, and let
        layers that choose by token ask for experts ahead."""
        assert self._store is not None
        self._store.reader.let_go()
        routers = {number: model.layers[number].mlp.gate for number in self.layers}
        tables = {
            number: np.array(router.tid2eid)
            for number, router in routers.items()
            if isinstance(router, HashRouter)
        }
        staged = partial(StagedLayers, model.config, model.ops, self._store, self._experts)
        model.reads_by_layers = True
        model.streamed = StreamedModel(self._experts, self._store, tables, staged)


def streamed_plan(
    config: DeepseekV4Config, plan: ParameterPlan, memory: int
) -> StreamedPlan | None:
    """What stays in files where `memory` bytes are for experts; None where they are for all.

    UsageError below the experts of one token, CheckpointError where experts cannot be read one by
    one.
    """
    kept, experts = without_experts(plan)
    layers = layer_parts(experts)
    slots = expert_slots(config, sum(layer.slot_bytes for layer in layers.values()), memory)
    return None if slots == config.n_routed_experts else StreamedPlan(config, kept, layers, slots)
