"""DeepSeek-V4's forward pass over one whole sequence in float64 numpy: slow, direct, no cache.

`forward` runs the backbone, `mtp_forward` the draft block, `run_block` one layer on given streams.
Weights carry the official checkpoint's names (`dequantize_checkpoint` reads them), the
configuration is the official config.json as a dictionary.

With `official=False` nothing is rounded. With `official=True` values are rounded to bfloat16 where
the official engine stores them, window and compressed entries to FP8, index vectors to FP4; each
such place reads `layer.bf16(...)`, `layer.fp8_nope(...)` or `layer.index_format(...)`. RoPE angles
are float32 products of position and frequency in both modes, as in the official engine.

Shapes: S tokens, N streams, D hidden, H heads, d head dim, r rope dims, T compressed entries,
E experts, k selected, V vocabulary. There is no batch axis.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checkpoint_numpy import dequantize_checkpoint
from .formats_numpy import fp4_roundtrip, fp8_roundtrip, hadamard, round_bf16

__all__ = [
    "BlockResult", "Result", "apply_rope", "compressed_visible", "csa_pool",
    "dequantize_checkpoint", "forward", "fp4_roundtrip", "fp8_roundtrip", "hadamard", "hca_pool",
    "hyper_post", "index_scores", "mtp_forward", "plain_frequencies", "rms_norm", "rope_angles",
    "round_bf16", "route", "run_block", "select_top_k", "sink_attention", "sinkhorn_split",
    "swiglu_clamped", "window_visible", "yarn_frequencies",
]  # fmt: skip

Weights = Mapping[str, np.ndarray]
CSA_RATE = 4
HCA_RATE = 128


@dataclass(frozen=True)
class BlockResult:
    """What one block produced and chose. Index fields are None outside CSA layers."""

    streams: np.ndarray  # [S, N, D] after the block
    experts: np.ndarray  # [S, k] the router's own choice, best first (hash layers: table order)
    expert_weights: np.ndarray  # [S, k] of the experts that ran, routed scaling included
    expert_margins: np.ndarray  # [S] biased score of the k-th minus that of the next; inf for hash
    index_scores: np.ndarray | None = None  # [S, T], -inf where the entry is not visible
    index_selected: list[np.ndarray] | None = None  # per query, the oracle's own choice, ascending
    index_margins: np.ndarray | None = None  # [S] last selected minus first left out, or inf


@dataclass(frozen=True)
class Result:
    """Logits [S, V] and one BlockResult per block that ran."""

    logits: np.ndarray
    layers: list[BlockResult]

    @property
    def streams(self) -> list[np.ndarray]:
        """Residual streams after each block, [S, N, D] each."""
        return [layer.streams for layer in self.layers]


@dataclass(frozen=True)
class Layer:
    """One block's view: its weights by their short name, its schedule, and the rounding mode."""

    config: Mapping[str, Any]
    weights: Weights
    prefix: str
    ratio: int
    hash_routed: bool
    official: bool

    def __getitem__(self, name: str) -> np.ndarray:
        return self.weights[self.prefix + name]

    @property
    def rope_dims(self) -> int:
        return self.config["qk_rope_head_dim"]

    def bf16(self, x: np.ndarray) -> np.ndarray:
        return round_bf16(x) if self.official else x

    def fp8_nope(self, kv: np.ndarray) -> np.ndarray:
        """FP8 on the dimensions without position; the rotated ones stay bfloat16. [..., d]"""
        if not self.official:
            return kv
        nope = kv.shape[-1] - self.rope_dims
        return np.concatenate([fp8_roundtrip(kv[..., :nope], 64), kv[..., nope:]], axis=-1)

    def index_format(self, x: np.ndarray) -> np.ndarray:
        """Index queries and keys after RoPE: Hadamard, then FP4. The identity without rounding,
        where the orthogonal transform would cancel between both sides. [..., index_head_dim]"""
        if not self.official:
            return x
        return fp4_roundtrip(round_bf16(hadamard(round_bf16(x))), 32)

    def angles(self, positions: np.ndarray) -> np.ndarray:
        """[S] -> [S, r/2], with this layer's one frequency table."""
        return rope_angles(positions, _layer_frequencies(self.config, self.ratio))


# --- Whole model ---------------------------------------------------------------------------------


def forward(
    config: Mapping[str, Any],
    weights: Weights,
    tokens: Sequence[int] | np.ndarray,
    *,
    official: bool,
    selections: Mapping[int, Sequence[np.ndarray]] | None = None,
    experts: Mapping[int, np.ndarray] | None = None,
) -> Result:
    """Token ids [S] -> logits [S, V] and every block's streams and choices.

    `selections[layer]` (one array of entry indices per query, negative ones ignored) replaces the
    indexer's choice in a CSA layer, `experts[layer]` [S, k] the router's. The BlockResult still
    reports what the oracle itself would have chosen.
    """
    tokens = np.asarray(tokens)
    embedded = weights["embed.weight"][tokens]
    streams = np.repeat(embedded[:, None, :], config["hc_mult"], axis=1)  # [S, N, D]
    layers: list[BlockResult] = []
    for number in range(config["num_hidden_layers"]):
        chosen = (selections or {}).get(number), (experts or {}).get(number)
        layers.append(
            run_block(config, weights, number, streams, tokens, official=official,
                      selection=chosen[0], experts=chosen[1])
        )  # fmt: skip
        streams = layers[-1].streams
    return Result(_head(config, weights, "", "norm.weight", streams, official), layers)


def run_block(
    config: Mapping[str, Any],
    weights: Weights,
    number: int,
    streams: np.ndarray,
    tokens: Sequence[int] | np.ndarray,
    *,
    official: bool,
    selection: Sequence[np.ndarray] | None = None,
    experts: np.ndarray | None = None,
) -> BlockResult:
    """Backbone block `number` on streams [S, N, D] of the tokens [S] at positions 0..S-1."""
    hash_routed = number < config["num_hash_layers"]
    ratio = config["compress_ratios"][number]
    layer = Layer(config, weights, f"layers.{number}.", ratio, hash_routed, official)
    return _block(layer, streams, np.asarray(tokens), selection, experts)


def mtp_forward(
    config: Mapping[str, Any],
    weights: Weights,
    streams: np.ndarray,
    tokens_next: Sequence[int] | np.ndarray,
    *,
    official: bool,
    experts: np.ndarray | None = None,
) -> Result:
    """The draft block mtp.0: last backbone streams [S, N, D] at positions t and the ids [S] at
    t + 1 -> logits [S, V] for t + 2. `experts` [S, k] forces the router's choice."""
    tokens_next = np.asarray(tokens_next)
    layer = Layer(config, weights, "mtp.0.", 0, False, official)
    eps = config["rms_norm_eps"]
    embedded = rms_norm(weights["embed.weight"][tokens_next], layer["enorm.weight"], eps)
    hidden = rms_norm(streams, layer["hnorm.weight"], eps)  # per stream
    projected = embedded @ layer["e_proj.weight"].T
    x = layer.bf16(projected[:, None, :] + hidden @ layer["h_proj.weight"].T)  # [S, N, D]
    block = _block(layer, x, tokens_next, None, experts)
    logits = _head(config, weights, "mtp.0.", "mtp.0.norm.weight", block.streams, official)
    return Result(logits, [block])


def _block(layer: Layer, streams, tokens, selection, experts) -> BlockResult:
    eps = layer.config["rms_norm_eps"]
    u, post, comb = _hyper_pre(layer, "attn", streams)
    attended, index = _attention(layer, rms_norm(u, layer["attn_norm.weight"], eps), selection)
    streams = layer.bf16(hyper_post(attended, streams, post, comb))
    u, post, comb = _hyper_pre(layer, "ffn", streams)
    mixed, routed = _moe(layer, rms_norm(u, layer["ffn_norm.weight"], eps), tokens, experts)
    streams = layer.bf16(hyper_post(mixed, streams, post, comb))
    return BlockResult(streams, *routed, *index)


def _head(config, weights, prefix, norm_name, streams, official) -> np.ndarray:
    """Hyper-head, final norm, shared output matrix: [S, N, D] -> [S, V]."""
    mixes = _normalised_projection(streams, weights[prefix + "hc_head_fn"], config["rms_norm_eps"])
    mixes = mixes * weights[prefix + "hc_head_scale"] + weights[prefix + "hc_head_base"]
    h = np.einsum("sn,snd->sd", _sigmoid(mixes) + config["hc_eps"], streams)
    h = round_bf16(h) if official else h
    return rms_norm(h, weights[norm_name], config["rms_norm_eps"]) @ weights["head.weight"].T


def rms_norm(x: np.ndarray, weight: np.ndarray | float, eps: float) -> np.ndarray:
    """weight * x / sqrt(mean(x^2) + eps) over the last axis."""
    return weight * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


# --- Manifold-constrained hyper-connections ------------------------------------------------------


def _hyper_pre(layer: Layer, sublayer: str, streams: np.ndarray):
    """[S, N, D] -> sublayer input u [S, D], post [S, N], comb [S, N, N]."""
    config, name = layer.config, f"hc_{sublayer}"
    mixes = _normalised_projection(streams, layer[f"{name}_fn"], config["rms_norm_eps"])
    pre, post, comb = sinkhorn_split(
        mixes, layer[f"{name}_scale"], layer[f"{name}_base"],
        streams=config["hc_mult"], iterations=config["hc_sinkhorn_iters"], eps=config["hc_eps"],
    )  # fmt: skip
    return layer.bf16(np.einsum("sn,snd->sd", pre, streams)), post, comb


def _normalised_projection(streams: np.ndarray, fn: np.ndarray, eps: float) -> np.ndarray:
    """fn @ x / rms(x) with x all N*D values of a token, stream after stream. -> [S, rows of fn]"""
    x = streams.reshape(len(streams), -1)
    return (x @ fn.T) / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def sinkhorn_split(
    mixes: np.ndarray,
    scale: np.ndarray,
    base: np.ndarray,
    *,
    streams: int = 4,
    iterations: int = 20,
    eps: float = 1e-6,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[..., (2+N)*N] -> pre [..., N], post [..., N], comb [..., N, N] (first index = old stream).

    The softmax counts as the first row step and the last step divides by column sums.
    """
    n = streams
    pre = _sigmoid(mixes[..., :n] * scale[0] + base[:n]) + eps
    post = 2 * _sigmoid(mixes[..., n : 2 * n] * scale[1] + base[n : 2 * n])
    comb = (mixes[..., 2 * n :] * scale[2] + base[2 * n :]).reshape(*mixes.shape[:-1], n, n)
    comb = _softmax(comb, axis=-1) + eps
    comb = comb / (comb.sum(axis=-2, keepdims=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(axis=-1, keepdims=True) + eps)
        comb = comb / (comb.sum(axis=-2, keepdims=True) + eps)
    return pre, post, comb


def hyper_post(y: np.ndarray, streams: np.ndarray, post: np.ndarray, comb: np.ndarray):
    """New streams: stream k gets post_k * y plus the old streams j weighted by comb[j, k].

    y [S, D], streams [S, N, D], post [S, N], comb [S, N, N] -> [S, N, D], not rounded.
    """
    return post[:, :, None] * y[:, None, :] + np.einsum("sjk,sjd->skd", comb, streams)


# --- Rotary positions ----------------------------------------------------------------------------


def plain_frequencies(theta: float, dims: int) -> np.ndarray:
    """theta**(-2i/dims) for the dims/2 pairs, float32."""
    return (float(theta) ** (-np.arange(0, dims, 2) / dims)).astype(np.float32)


def yarn_frequencies(
    theta: float,
    dims: int,
    *,
    factor: float,
    original_max_position_embeddings: int,
    beta_fast: float,
    beta_slow: float,
) -> np.ndarray:
    """YaRN: fast pairs keep their frequency, slow ones are divided by `factor`. [dims/2] float32"""

    def pair_that_turns(rotations: float) -> float:
        ratio = original_max_position_embeddings / (2 * math.pi * rotations)
        return dims * math.log(ratio) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(beta_slow)), dims - 1)
    width = high - low or 0.001  # a step instead of a division by zero
    ramp = np.clip((np.arange(dims // 2) - low) / width, 0, 1)
    frequencies = float(theta) ** (-np.arange(0, dims, 2) / dims)
    return (frequencies * (1 - ramp + ramp / factor)).astype(np.float32)


def _layer_frequencies(config: Mapping[str, Any], ratio: int) -> np.ndarray:
    dims, scaling = config["qk_rope_head_dim"], config.get("rope_scaling")
    if ratio == 0:
        return plain_frequencies(config["rope_theta"], dims)
    if scaling is None:
        return plain_frequencies(config["compress_rope_theta"], dims)
    names = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
    return yarn_frequencies(
        config["compress_rope_theta"], dims, **{name: scaling[name] for name in names}
    )


def rope_angles(positions: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """[S], [r/2] float32 -> [S, r/2]: the float32 product, widened to float64."""
    product = np.asarray(positions, np.float32)[:, None] * frequencies.astype(np.float32)
    return product.astype(np.float64)


def apply_rope(x: np.ndarray, angles: np.ndarray, *, inverse: bool = False) -> np.ndarray:
    """Rotate adjacent pairs of the last r dims. x [S, d] or [S, heads, d], angles [S, r/2]."""
    if x.ndim == 3:
        angles = angles[:, None, :]
    rope = 2 * angles.shape[-1]
    nope = x.shape[-1] - rope
    cos, sin = np.cos(angles), np.sin(-angles if inverse else angles)
    a, b = x[..., nope::2], x[..., nope + 1 :: 2]
    rotated = np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return np.concatenate([x[..., :nope], rotated.reshape(*x.shape[:-1], rope)], axis=-1)


# --- Attention -----------------------------------------------------------------------------------


def _attention(layer: Layer, x: np.ndarray, selection):
    """Normed input [S, D] -> output [S, D] and (index scores, selected, margins) or Nones."""
    config, size = layer.config, len(x)
    eps, heads, dim = config["rms_norm_eps"], config["num_attention_heads"], config["head_dim"]
    angles = layer.angles(np.arange(size))
    qr = layer.bf16(rms_norm(x @ layer["attn.wq_a.weight"].T, layer["attn.q_norm.weight"], eps))
    q = (qr @ layer["attn.wq_b.weight"].T).reshape(size, heads, dim)
    q = apply_rope(layer.bf16(rms_norm(q, 1.0, eps)), angles)
    kv = rms_norm(x @ layer["attn.wkv.weight"].T, layer["attn.kv_norm.weight"], eps)
    kv = layer.fp8_nope(layer.bf16(apply_rope(kv, angles)))
    mask, index = window_visible(size, config["sliding_window"]), (None, None, None)
    if layer.ratio:
        entries = layer.fp8_nope(layer.bf16(_compressed_entries(layer, "attn.compressor.", x)))
        visible = compressed_visible(size, layer.ratio)
        if layer.ratio == CSA_RATE:
            index = _index(layer, x, qr, visible)
            visible = _selection_mask(index[1] if selection is None else selection, visible)
        kv, mask = np.concatenate([kv, entries]), np.concatenate([mask, visible], axis=1)
    o = sink_attention(q, kv, mask, layer["attn.attn_sink"], dim**-0.5, official=layer.official)
    o = layer.bf16(apply_rope(o, angles, inverse=True))
    return _grouped_output(layer, o), index


def sink_attention(
    q: np.ndarray,
    kv: np.ndarray,
    mask: np.ndarray,
    sinks: np.ndarray,
    scale: float,
    *,
    official: bool = False,
) -> np.ndarray:
    """q [S, H, d], keys = values [T, d], mask [S, T] true where seen, sinks [H] -> [S, H, d].

    The sink adds to the denominator alone. With `official` the unnormalised probabilities are
    bfloat16 where they meet the values, not in the denominator.
    """
    size, heads, dim = q.shape
    z = (q.reshape(size * heads, dim) @ kv.T).reshape(size, heads, len(kv)) * scale
    z = np.where(mask[:, None, :], z, -np.inf)
    largest = z.max(axis=-1, keepdims=True)
    p = np.exp(z - largest)
    denominator = p.sum(axis=-1) + np.exp(sinks - largest[..., 0])
    p = round_bf16(p) if official else p
    return (p.reshape(size * heads, len(kv)) @ kv).reshape(q.shape) / denominator[..., None]


def _grouped_output(layer: Layer, o: np.ndarray) -> np.ndarray:
    """[S, H, d] -> [S, D]: neighbouring heads form a group with its own first matrix."""
    groups, rank = layer.config["o_groups"], layer.config["o_lora_rank"]
    wo_a = layer["attn.wo_a.weight"].reshape(groups, rank, -1)
    t = np.einsum("sgi,gri->sgr", o.reshape(len(o), groups, -1), wo_a, optimize=True)
    return t.reshape(len(o), -1) @ layer["attn.wo_b.weight"].T


def window_visible(size: int, window: int) -> np.ndarray:
    """[S, S], true where key position is one of the query's last `window`, itself included."""
    distance = np.arange(size)[:, None] - np.arange(size)[None, :]
    return (distance >= 0) & (distance < window)


def compressed_visible(size: int, rate: int) -> np.ndarray:
    """[S, S // rate], true where the entry's tokens are all at or before the query."""
    return np.arange(size // rate)[None, :] < ((np.arange(size) + 1) // rate)[:, None]


# --- Compressed entries and the lightning indexer ------------------------------------------------


def _compressed_entries(layer: Layer, name: str, x: np.ndarray) -> np.ndarray:
    """Pooled, normed and rotated entries of the compressor `name`: [S, D] -> [T, d]."""
    rate, ape = layer.ratio, layer[name + "ape"]
    values = x @ layer[name + "wkv.weight"].T
    scores = x @ layer[name + "wgate.weight"].T + ape[np.arange(len(x)) % rate]
    pooled = (csa_pool if rate == CSA_RATE else hca_pool)(values, scores, rate)
    entries = rms_norm(pooled, layer[name + "norm.weight"], layer.config["rms_norm_eps"])
    return apply_rope(entries, layer.angles(rate * np.arange(len(entries))))


def hca_pool(values: np.ndarray, scores: np.ndarray, rate: int = HCA_RATE) -> np.ndarray:
    """Per-channel softmax over each whole window of `rate` tokens: [S, d], [S, d] -> [T, d].

    Scores already hold the position bias. A last window that is not full yields no entry.
    """
    values, scores = _windows(values, rate), _windows(scores, rate)
    return (_softmax(scores, axis=1) * values).sum(axis=1)


def csa_pool(values: np.ndarray, scores: np.ndarray, rate: int = CSA_RATE) -> np.ndarray:
    """Overlapping windows: [S, 2d], [S, 2d] -> [T, d], T = S // rate.

    The first half of the channels is read by the next window, the second by the token's own; the
    window before the first does not exist and weighs nothing.
    """
    values, scores, dim = _windows(values, rate), _windows(scores, rate), values.shape[-1] // 2
    before = np.zeros((1, rate, dim))
    slots = [_shifted(values[..., :dim], before), values[..., dim:]]
    slot_scores = [_shifted(scores[..., :dim], before - np.inf), scores[..., dim:]]
    weights = _softmax(np.concatenate(slot_scores, axis=1), axis=1)  # [T, 2 * rate, d]
    return (weights * np.concatenate(slots, axis=1)).sum(axis=1)


def _windows(x: np.ndarray, rate: int) -> np.ndarray:
    """[S, C] -> [S // rate, rate, C], the unfinished window dropped."""
    count = len(x) // rate
    return x[: count * rate].reshape(count, rate, x.shape[-1])


def _shifted(windows: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Each window's predecessor; `first` [1, rate, C] stands before window 0."""
    return np.concatenate([first, windows])[: len(windows)]


def _index(layer: Layer, x: np.ndarray, qr: np.ndarray, visible: np.ndarray):
    """Index scores [S, T], selected entries per query and margins [S] of one CSA layer."""
    config = layer.config
    heads, dim = config["index_n_heads"], config["index_head_dim"]
    q = (qr @ layer["attn.indexer.wq_b.weight"].T).reshape(len(x), heads, dim)
    q = layer.index_format(apply_rope(q, layer.angles(np.arange(len(x)))))
    keys = layer.index_format(_compressed_entries(layer, "attn.indexer.compressor.", x))
    head_weights = x @ layer["attn.indexer.weights_proj.weight"].T * (dim * heads) ** -0.5
    scores = np.where(visible, index_scores(q, keys, head_weights), -np.inf)
    return scores, *select_top_k(scores, config["index_topk"])


def index_scores(q: np.ndarray, keys: np.ndarray, head_weights: np.ndarray) -> np.ndarray:
    """Sum over heads of weight * relu(q . key): [S, h, d], [T, d], [S, h] -> [S, T]."""
    scores = np.zeros((len(q), len(keys)))
    for head in range(q.shape[1]):
        scores += head_weights[:, head, None] * np.maximum(q[:, head] @ keys.T, 0)
    return scores


def select_top_k(scores: np.ndarray, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """[S, T] -> per row the indices of the `count` highest, ascending, and the margins [S].

    Equal scores go to the lowest index, -inf is never selected. The margin is the distance
    between the last score in and the first out, inf when every valid entry is in.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    valid = np.isfinite(scores).sum(axis=1)
    selected = [np.sort(row[: min(count, v)]) for row, v in zip(order, valid, strict=True)]
    margins = np.full(len(scores), np.inf)
    for row in np.flatnonzero(valid > count):
        last_in, first_out = scores[row, order[row, count - 1 : count + 1]]
        margins[row] = last_in - first_out
    return selected, margins


def _selection_mask(selection: Sequence[np.ndarray], visible: np.ndarray) -> np.ndarray:
    """Selected indices per query -> [S, T]; negative indices mean no entry."""
    mask = np.zeros_like(visible)
    for row, indices in enumerate(selection):
        indices = np.asarray(indices, np.int64)
        mask[row, indices[indices >= 0]] = True
    if (mask & ~visible).any():
        raise ValueError("selections: a query was given an entry that ends after it.")
    return mask


# --- Mixture of experts --------------------------------------------------------------------------


def _moe(layer: Layer, x: np.ndarray, tokens: np.ndarray, forced):
    """Normed input [S, D] -> output [S, D] and (own experts, weights used, margins)."""
    config = layer.config
    table = layer["ffn.gate.tid2eid"][tokens].astype(np.int64) if layer.hash_routed else None
    routing = {
        "count": config["num_experts_per_tok"],
        "scaling": config["routed_scaling_factor"],
        "bias": None if layer.hash_routed else layer["ffn.gate.bias"],
    }
    logits = x @ layer["ffn.gate.weight"].T
    own, weights, margins = route(logits, chosen=table, **routing)
    experts = own
    if forced is not None:
        experts, weights, _ = route(logits, chosen=np.asarray(forced), **routing)
    y = _expert(layer, "ffn.shared_experts.", x, 1.0)
    for expert in np.unique(experts):
        rows, slots = np.nonzero(experts == expert)
        part = _expert(layer, f"ffn.experts.{expert}.", x[rows], weights[rows, slots][:, None])
        np.add.at(y, rows, part)
    return layer.bf16(y), (own, weights, margins)


def _expert(layer: Layer, name: str, x: np.ndarray, weight: np.ndarray | float) -> np.ndarray:
    gate, up = x @ layer[name + "w1.weight"].T, x @ layer[name + "w3.weight"].T
    hidden = swiglu_clamped(gate, up, layer.config["swiglu_limit"]) * weight
    return hidden @ layer[name + "w2.weight"].T


def swiglu_clamped(gate: np.ndarray, up: np.ndarray, limit: float) -> np.ndarray:
    """silu(min(gate, limit)) * clip(up, -limit, limit)."""
    gate = np.minimum(gate, limit)
    return gate * _sigmoid(gate) * np.clip(up, -limit, limit)


def route(
    logits: np.ndarray,
    bias: np.ndarray | None,
    count: int,
    scaling: float,
    *,
    chosen: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[S, E] -> experts [S, k], weights [S, k] and margins [S] between biased scores k and k + 1.

    The bias chooses, the weights come from the scores without it. `chosen` [S, k] skips the
    choice (margins inf). Equal scores go to the lowest expert.
    """
    scores = np.sqrt(np.logaddexp(0.0, logits))  # sqrt(softplus)
    margins = np.full(len(logits), np.inf)
    if chosen is None:
        biased = scores + bias
        order = np.argsort(-biased, axis=1, kind="stable")
        chosen = order[:, :count]
        if count < scores.shape[1]:
            ranked = np.take_along_axis(biased, order, axis=1)
            margins = ranked[:, count - 1] - ranked[:, count]
    weights = np.take_along_axis(scores, chosen, axis=1)
    return chosen, weights / weights.sum(axis=1, keepdims=True) * scaling, margins


# --- Elementary functions ------------------------------------------------------------------------


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)
