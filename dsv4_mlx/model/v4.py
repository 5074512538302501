"""The V4 graph: token ids -> logits.

Four residual streams run through every layer; each sublayer sees one weighted collapse of them and
writes back to all (mHC). Activations are float32 arrays whose values are rounded where `Numerics`
says. `Model` keeps mlx-lm's contract: `model(tokens, cache)`, `make_cache()`, `layers`, `sanitize`.
The file has more than 300 lines because what drafts read of a call is taken inside of it.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from dsv4_mlx.cache.drafts import new_cache
from dsv4_mlx.cache.layer import LayerCache, for_one_call
from dsv4_mlx.cache.layouts import layout_for
from dsv4_mlx.device.memory import HeldMemory
from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.errors import UsageError
from dsv4_mlx.model.backends import use_backend
from dsv4_mlx.model.compiled import CompiledStep
from dsv4_mlx.model.decoder_layer import DecoderLayer, decoder_layers
from dsv4_mlx.model.draft_head import DraftHead, may_be_packed
from dsv4_mlx.model.dspark import DSparkStage
from dsv4_mlx.model.dspark_drafts import DSparkDrafts
from dsv4_mlx.model.engram import Engram, LookedUp
from dsv4_mlx.model.hyper_connections import HyperHead
from dsv4_mlx.model.layer_major import BeforeLayer, read_by_layers
from dsv4_mlx.model.layers import Embedding, Joined, Linear, MatrixLayer, Norm
from dsv4_mlx.model.matmul import on_cpu
from dsv4_mlx.model.mtp import MultiTokenPredictor
from dsv4_mlx.model.mtp_drafts import MtpDrafts
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.pacing import Pace
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.deciding import deciding_keys
from metal_kernels import registry
from metal_kernels.ops import Ops

if TYPE_CHECKING:
    from dsv4_mlx.model.streamed_model import StreamedModel

Seen = Callable[[int, mx.array], None]
"""Gets a layer's number and its streams [B, S, N, D]."""


class Backbone(nn.Module):
    """Embedding, layers, and what turns streams into one hidden state."""

    def __init__(self, config: DeepseekV4Config, numerics: Numerics, ops: Ops):
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        every = range(config.num_hidden_layers)
        self.layers = decoder_layers(config, every, numerics, ops)
        self.hc_head = HyperHead(config, numerics, ops)
        self.norm = Norm(config.hidden_size)
        self._ops, self._streams = ops, config.hc_mult
        self.is_paced = not on_cpu(ops)  # a model without values has nothing to evaluate

    def __call__(
        self,
        tokens: mx.array,
        cache: list[LayerCache],
        *,
        last: bool = False,
        rows: Mapping[int, mx.array] | None = None,
        seen: Seen | None = None,
    ) -> mx.array:
        """Token ids [B, S] -> streams after the last layer [B, S, N, D], `last`: [B, 1, N, D].

        `rows` [B, S, width] are what Engram looked up for them already, by layer. `seen` is called
        with every layer's number and its streams of all tokens.
        """
        streams = self._ops.embed_streams(tokens, self.embed_tokens.weight, streams=self._streams)
        pace = Pace(tokens.size) if self.is_paced and tokens.shape[1] > 1 else None
        # Rows may lie in files, so they are asked for before any layer works.
        looked_up: dict[int, LookedUp | mx.array] = dict(rows or {})
        for number, layer in enumerate(self.layers):
            if layer.engram is not None and number not in looked_up:
                looked_up[number] = layer.engram.look_up(tokens, cache[number])
        watched = seen is not None or pace is not None
        final = len(self.layers) - 1
        for number, layer in enumerate(self.layers[:-1]):
            streams = layer(streams, tokens, cache[number], looked_up.get(number))
            if watched:
                _after(number, streams, seen, pace)
        ends = last and tokens.shape[1] > 1
        whole = partial(seen, final) if ends and seen is not None else None
        streams = self.layers[final](
            streams, tokens, cache[final], looked_up.get(final), last=ends, whole=whole
        )
        if watched:
            _after(final, streams, None if ends else seen, pace)
        return streams


def _after(number: int, streams: mx.array, seen: Seen | None, pace: Pace | None) -> None:
    """A layer gave `streams`."""
    if seen is not None:
        seen(number, streams)
    if pace is not None:
        pace.after(streams)


class Model(nn.Module):
    """DeepSeek-V4 with its prediction head and MTP blocks.

    The backend is decided here, once; a missing one raises BackendError. `kv` says how caches
    store rows (`compact` or `bf16`, see `layout_for`). A `plan` takes the place of `backend` and
    leaves MLX's device alone: a graph can be traced for a backend that is not there.
    """

    def __init__(
        self,
        config: DeepseekV4Config,
        numerics: Numerics = Numerics.OFFICIAL,
        backend: str = "auto",
        *,
        kv: str | None = None,
        plan: registry.KernelPlan | None = None,
    ):
        super().__init__()
        if plan is None:
            plan = use_backend(backend)
        self.config, self.numerics = config, numerics
        self.layout = layout_for(numerics is Numerics.OFFICIAL, kv)
        self._plan = plan
        self.model = Backbone(config, numerics, plan.ops)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.draft_head: DraftHead | None = None
        """What drafts read in the place of `lm_head`, where there is one."""
        blocks = config.num_nextn_predict_layers if config.draft_kind == "mtp" else 0
        self.mtp = [
            MultiTokenPredictor(config, numerics, plan.ops, self.layout) for _ in range(blocks)
        ]
        self.fingerprint = _config_fingerprint(config)
        """Names what decides a timeline's state; cache files carry it."""
        self.weights_fingerprint = self.fingerprint
        """Names all weights, those of drafts too."""
        self.earlier_fingerprints: Sequence[str] = ()
        """What older cache files carry: names with the drafts that there are, or were, or none."""
        self.at_first_call: Callable[[], None] | None = None
        """What ends with the first tokens, as work that was done ahead of them does."""
        self.finish_warm_up: Callable[[], None] | None = None
        """What waits for that work, and lets it end; None where there is none."""
        self.explain: Callable[[BaseException], None] | None = None
        """What raises a sentence for an error of MLX that a kernel is to blame for."""
        self.row_finding: RowFinding | None = None
        """What a load found of rows that keep their bits; None where nobody asked."""
        self.weights_elsewhere = False
        """Whether experts are streamed from files or layers piped over machines; see `Drafting`."""
        self.reads_by_layers = False
        """Whether prompts pass a layer before the next one; see `layer_major`."""
        self.streamed: StreamedModel | None = None
        """The layers whose experts are in files, and their counters; None where all are loaded."""
        self.memory = HeldMemory()
        for _, module in self.named_modules():
            if isinstance(module, MatrixLayer):
                module.bind(plan.ops)

    def join(self) -> None:
        """Lay weights that share an input one after the other; call it once they are loaded."""
        for joined in self.joined():
            mx.eval(joined.join())  # one by one, so that two copies exist of one group at most

    def joined(self) -> list[Joined]:
        """The groups of layers that share an input."""
        return [one for block in (*self.layers, *self.mtp) for one in block.joined()]

    def __call__(self, tokens: mx.array, cache: list[LayerCache] | None = None) -> mx.array:
        """Token ids [B, S] -> logits [B, S, V] float32; `cache` moves on by S tokens."""
        return self.logits(self.streams(tokens, cache))

    def last_logits(
        self,
        tokens: mx.array,
        cache: list[LayerCache] | None = None,
        rows: Mapping[int, mx.array] | None = None,
    ) -> mx.array:
        """Logits after the last of the tokens alone, [B, V]: what generation needs of a prompt.

        `rows` [B, S, width] are what Engram looked up already, by layer.
        """
        return self.logits(self.streams(tokens, cache, last=True, rows=rows))[:, 0]

    def last_logits_and_features(
        self,
        tokens: mx.array,
        cache: list[LayerCache] | None = None,
        rows: Mapping[int, mx.array] | None = None,
    ) -> tuple[mx.array, mx.array]:
        """The same, and what drafts are made from, of every token: the streams [B, S, N, D], or
        with DSpark's stages the taps [B, S, 3 D]."""
        streams, features = self._with_features(tokens, cache, rows, last=True)
        return self.logits(streams)[:, 0], features

    def logits_and_features(
        self, tokens: mx.array, cache: list[LayerCache] | None = None
    ) -> tuple[mx.array, mx.array]:
        """Logits [B, S, V] after every token, and what drafts are made from."""
        streams, features = self._with_features(tokens, cache, None, last=False)
        return self.logits(streams), features

    def _with_features(
        self,
        tokens: mx.array,
        cache: list[LayerCache] | None,
        rows: Mapping[int, mx.array] | None,
        *,
        last: bool,
    ) -> tuple[mx.array, mx.array]:
        final = len(self.layers) - 1
        dspark = self.config.dspark if self.stages else None
        wanted = (final,) if dspark is None else dspark.target_layer_ids
        kept: dict[int, mx.array] = {}

        def seen(number: int, streams: mx.array) -> None:
            if number in wanted:
                kept[number] = streams if dspark is None else streams.mean(axis=2)

        streams = self.streams(tokens, cache, last=last, rows=rows, seen=seen)
        if len(wanted) == 1:
            return streams, kept[wanted[0]]
        return streams, mx.concatenate([kept[layer] for layer in wanted], axis=-1)

    def add_stages(self) -> None:
        """Make DSpark's stages, whose weights are loaded with the others."""
        dspark, ops = self.config.dspark, self._plan.ops
        assert dspark is not None
        self["mtp"] = [
            DSparkStage(self.config, dspark, self.numerics, ops, self.layout, number)
            for number in range(self.config.num_draft_stages)
        ]
        for stage in self.stages:
            for _, module in stage.named_modules():
                if isinstance(module, MatrixLayer):
                    module.bind(ops)

    def pack_draft_head(self) -> None:
        """Let drafts read a copy of the head in eight bits, where a copy is smaller."""
        if self["mtp"] and may_be_packed(self.lm_head):
            self.draft_head = DraftHead(self.lm_head, self.ops)

    @property
    def drafts_read(self) -> Callable[[mx.array], mx.array]:
        """The head of drafts: hidden states [..., D] -> logits [..., V] float32."""
        return self.lm_head if self.draft_head is None else self.draft_head

    def drop_stages(self) -> None:
        """Let go of DSpark's stages, where there are some."""
        if self.stages:
            self["mtp"], self.draft_head = [], None

    @property
    def stages(self) -> list[DSparkStage]:
        """DSpark's, once `add_stages` made them."""
        blocks: list[DecoderLayer] = self["mtp"]
        return [block for block in blocks if isinstance(block, DSparkStage)]

    def drafts(self) -> MtpDrafts | DSparkDrafts | None:
        """What drafts with this model's own weights; None where it has no draft weights."""
        if self.stages:
            return DSparkDrafts(self)
        return MtpDrafts(self) if self.mtp else None

    @property
    def ops(self) -> Ops:
        """What its kernels run by."""
        return self._plan.ops

    def streams(
        self,
        tokens: mx.array,
        cache: list[LayerCache] | None = None,
        *,
        last: bool = False,
        rows: Mapping[int, mx.array] | None = None,
        seen: Seen | None = None,
    ) -> mx.array:
        """Residual streams after the last layer, [B, S, N, D]: what an MTP block continues.

        With `last` those of the last token, [B, 1, N, D]; the last layer has experts for no other.
        """
        if tokens.ndim != 2 or tokens.size == 0:
            raise UsageError(
                f"expected token ids [B, S] with at least one token but found {tokens.shape}."
            )
        self._begin_call()
        if tokens.dtype == mx.uint32:  # drawn ones: as prompts, so that kernels have one variant
            tokens = tokens.view(mx.int32)
        if cache is None:
            cache = [for_one_call(role) for role in self.config.layer_roles]
        if self.streamed is not None:
            if tokens.shape[0] > 1:
                raise UsageError(
                    f"expected one timeline a call, as experts are read from files, but found a "
                    f"batch of {tokens.shape[0]}; call the model for each alone, or load it with "
                    "all experts in memory."
                )
            self.streamed.begin(tokens)
        return self.model(tokens, cache, last=last, rows=rows, seen=seen)

    def _begin_call(self) -> None:
        """End what the first tokens end."""
        if self.at_first_call is not None:
            self.at_first_call()
            self.at_first_call = self.finish_warm_up = None

    def embedded(self, tokens: mx.array) -> mx.array:
        """Token ids [B, S] -> the streams before the first layer, [B, S, N, D]."""
        N = self.config.hc_mult
        return self.ops.embed_streams(tokens, self.model.embed_tokens.weight, streams=N)

    def read_by_layers(
        self,
        tokens: mx.array,
        cache: list[LayerCache],
        *,
        chunk: int,
        moments: Collection[int],
        before_layer: BeforeLayer,
    ) -> mx.array | None:
        """Logits [1, V] after a prompt [1, S] that passes a layer before the next one begins; None
        where it was stopped. See `layer_major.read_by_layers`."""
        self._begin_call()
        whole = None
        if self.streamed is not None:
            choices = tokens.size * self.config.num_experts_per_tok
            # Of experts that are drawn alike 86 % are then among the choices of a layer.
            nearly_all = choices >= 2 * self.config.n_routed_experts
            whole = self.streamed.for_prompt(tokens, chooses_all=nearly_all or tokens.size > chunk)
        return read_by_layers(
            self,
            tokens,
            cache,
            chunk=chunk,
            moments=moments,
            before_layer=before_layer,
            experts=whole,
        )

    def logits(self, streams: mx.array) -> mx.array:
        """Streams [B, S, N, D] -> logits [B, S, V] float32."""
        return self.lm_head(self.model.hc_head(streams, self.model.norm.weight))

    def ask_ahead(self, tokens: Sequence[int], start: int, stop: int) -> None:
        """Begin to read from files what tokens `start` to `stop` of a timeline will look up."""
        for engram in self.engrams().values():
            engram.ask_ahead(tokens, start, stop)
        if self.streamed is not None:
            self.streamed.ask_ahead(tokens[start:stop])

    def table_reads(self) -> dict[str, int]:
        """Rows of Engram's tables so far: `kept`, `ahead`, `missed`, and `bytes` asked of files;
        nothing where none is in files."""
        sources = [one.source for one in self.engrams().values() if one.source is not None]
        counts = [source.counts for source in sources]
        if not counts:
            return {}
        return {
            "kept": sum(one.kept for one in counts),
            "ahead": sum(one.ahead for one in counts),
            "missed": sum(one.missed for one in counts),
            "bytes": sum(one.nbytes for one in counts),
        }

    def expert_reads(self) -> dict[str, float]:
        """What calls found of routed experts so far: `slots` of a layer, `hits`, `misses`,
        `bytes_read` and `waited_s`; nothing where all experts are in memory."""
        if self.streamed is None:
            return {}
        facts = self.streamed.facts
        return {**facts.facts(), "waited_s": facts.waited}

    def compiled_step(self) -> CompiledStep:
        """A step of one token that is built once and replayed; it holds the model."""
        return CompiledStep(self)

    def make_cache(self) -> list[LayerCache]:
        """An empty cache, one per layer."""
        return new_cache(self.config, self.layout)

    @property
    def layers(self) -> list[DecoderLayer]:
        """The backbone's layers."""
        return self.model.layers

    def engrams(self) -> dict[int, Engram]:
        """What the layers that have Engram look up with, by layer."""
        return {n: layer.engram for n, layer in enumerate(self.layers) if layer.engram is not None}

    @property
    def token_map(self) -> npt.NDArray[np.int32] | None:
        """How Engram compresses token ids, [V]; None without Engram, and until it is known."""
        return next((one.token_map for one in self.engrams().values()), None)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Kernels that run by their slower references, as somebody asked."""
        return self._plan.left_out

    def kernel_plan(self) -> dict[str, str]:
        """Which implementation every kernel runs: `metal`, `cuda` or `reference`, or `mlx` of
        products that are left to MLX; `experts` are `resident` or `streamed` from files."""
        experts = "resident" if self.streamed is None else "streamed"
        return {"backend": self._plan.backend, "experts": experts, **self._plan.used}

    @property
    def exact_rows(self) -> int:
        """Rows of a call up to which each has the bits that it has alone."""
        return self._plan.exact_rows

    def use_exact_rows(self, rows: int) -> None:
        """Multiply from now on as `exact_rows` says; before the first step is compiled."""
        self._plan = self._plan.with_exact_rows(rows)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Converted folders already carry our names; mlx-lm asks."""
        return weights


def _config_fingerprint(config: DeepseekV4Config) -> str:
    """Names a model without a checkpoint; loading replaces it by one that covers the weights."""
    text = json.dumps(deciding_keys(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
