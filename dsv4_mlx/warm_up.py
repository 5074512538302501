"""Compiling a session's kernels while the weights load.

MLX compiles a form of a kernel text when it is first launched, so that the first tokens of a
process would wait for all of them. Which forms a session meets is recorded from a model of the same
shapes without values, and each is built by one launch on zeros.
"""

import atexit
from dataclasses import dataclass
from threading import Event, Thread

import mlx.core as mx

from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.unloaded import cache_after, place_zeros
from dsv4_mlx.weights.parameters import ParameterPlan
from metal_kernels.registry import KernelPlan, bind
from metal_kernels.variants import Launched, Variant, recording


@dataclass(frozen=True)
class Shapes:
    """What decides the forms: everything about a model but its values."""

    config: DeepseekV4Config
    plan: ParameterPlan
    kernels: KernelPlan
    numerics: Numerics
    kv: str | None
    dtype: mx.Dtype
    """That of unpacked matrices."""
    rows: int = 1
    """Rows of a pass that have to be exact: more than 1 where something drafts."""
    slots: int | None = None
    """Experts of each layer in memory; None for all."""

    def blank(self) -> Model:
        """A model with as many layers as show all kinds, without values."""
        kernels = self.kernels
        if self.rows != kernels.exact_rows:
            kernels = bind(kernels.backend, kernels.left_out, self.rows)
        model = Model(shortened(self.config), self.numerics, kv=self.kv, plan=kernels)
        place_zeros(model, self.plan, "BF16" if self.dtype == mx.bfloat16 else "F32")
        return model


class WarmUp:
    """Builds the forms on a thread of its own until all are there or somebody needs the GPU."""

    def __init__(self, shapes: Shapes) -> None:
        """On the device that MLX computes on in this thread."""
        self._shapes, self._device = shapes, mx.default_device()
        self._over = Event()
        self._thread = Thread(target=self._run, name="warm-up", daemon=True)
        self.built: list[Variant] = []
        self.failed: dict[Variant, str] = {}
        """Forms that MLX refused, which are an error only to those who need them."""

    def start(self) -> None:
        """Begin; a process that ends meanwhile waits for the form in the compiler, no longer."""
        atexit.register(self._end)
        self._thread.start()

    def abandon(self) -> None:
        """Build no more forms, without waiting for the one in the compiler."""
        self._over.set()

    def join(self) -> None:
        """Until all forms are built."""
        self._thread.join()

    def _end(self) -> None:
        self.abandon()
        self.join()

    def _run(self) -> None:
        mx.set_default_device(self._device)
        shapes = self._shapes
        launches = session_launches(shapes.blank(), self._over, shapes.slots)
        for launched in launches.values():
            if self._over.is_set():
                break
            try:
                launched.build(self._shapes.kernels.backend)
            except (RuntimeError, ValueError) as error:
                self.failed[launched.variant] = str(error)
            else:
                self.built.append(launched.variant)
        atexit.unregister(self._end)


def session_launches(
    model: Model, over: Event | None = None, slots: int | None = None
) -> dict[Variant, Launched]:
    """The forms that a session of `model` meets, by one launch each, in the order it meets them.

    `over` ends the recording early. `slots` are as in `Shapes`.
    """
    with recording() as seen:
        for context, tokens in moments(model.config):
            if over is not None and over.is_set():
                break
            cache = cache_after(model, context, 1)
            model.last_logits(mx.zeros((1, tokens), mx.int32), cache)
        for context, tokens in blocks(model.config, model.exact_rows):
            if over is not None and over.is_set():
                break
            model(mx.zeros((1, tokens), mx.int32), cache_after(model, context, 1))
        if slots is not None and (over is None or not over.is_set()):
            _pass_in_waves(model, slots)
    return seen


def _pass_in_waves(model: Model, slots: int) -> None:
    """Launch what a prompt does whose experts do not fit into the slots of a layer, and which does
    not pass whole layers: blocks of a table of so many experts."""
    layers = [layer.mlp.experts for layer in model.layers]
    k = model.config.num_experts_per_tok
    tokens = layers[0].most_unsorted // k + 1
    for experts in layers:
        if experts.takes_blocks(tokens, k):
            down, rows = experts.down_proj, tokens * k
            codes = mx.zeros((slots, *down.weight.shape[1:]), mx.uint32)
            scales = mx.zeros((slots, *down.scales.shape[1:]), mx.uint8)
            x = mx.zeros((rows, model.config.moe_intermediate_size))
            model.ops.expert_matmul(x, codes, scales, mx.zeros((rows,), mx.uint32))


def blocks(config: DeepseekV4Config, rows: int) -> list[tuple[int, int]]:
    """Passes of a token and its drafts, as tokens in the cache and rows of the pass.

    Of every number of rows before the first entries, over a full window and where indexers select;
    none where a pass has one row.
    """
    contexts = sorted({context for context, tokens in moments(config) if tokens == 1 and context})
    return [(context, count) for context in contexts for count in range(2, rows + 1)]


def moments(config: DeepseekV4Config) -> list[tuple[int, int]]:
    """Calls, as tokens in the cache and tokens given, that meet every form between them.

    The first prompt and its token; before and at the first entry of each kind; a full window; the
    first token for which an indexer selects, and turns of few tokens then.
    """
    entries = sorted({role.ratio for role in config.layer_roles} - {0})
    window = config.sliding_window
    selecting = max(
        (role.ratio * (config.index_topk + 1) for role in config.layer_roles if role.selects),
        default=window,
    )
    later = [(selecting, tokens) for tokens in (1, 2, 3, 5, 40)]
    first = [(ratio - before, 1) for ratio in entries for before in (2, 1)]
    return [(0, 16), (0, 1), *first, (window, 1), *later]


def shortened(config: DeepseekV4Config) -> DeepseekV4Config:
    """The config of the fewest first layers that have every kind of layer that it has."""
    engram = config.engram
    with_engram = () if engram is None else engram.layer_ids
    kinds = [
        (
            role.ratio,
            role.selects,
            role.owns_entries,
            layer < config.num_hash_layers,
            layer in with_engram,
        )
        for layer, role in enumerate(config.layer_roles)
    ]
    layers = next(n for n in range(1, len(kinds) + 1) if set(kinds[:n]) == set(kinds))
    return config.replace(
        num_hidden_layers=layers,
        compress_ratios=config.compress_ratios[:layers],
        num_hash_layers=min(config.num_hash_layers, layers),
        num_nextn_predict_layers=0,
        dspark=None,
        engram=None if engram is None else engram.within(layers),
    )
