"""Every kernel's result in float64 numpy, from the oracle's functions: nothing of ours computes.

Where a kernel rounds, a number that lies next to the middle of two grid points may go either way in
float32. `Rounding(nudge)` moves every number by a relative 3e-6 before it is rounded, so comparing
nudges of -1, 0 and 1 shows which results such a decision could change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from tests.oracle import engram_numpy, formats_numpy
from tests.oracle import v4_numpy as v4

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Rounding:
    """The oracle's roundings, of numbers moved by `nudge` times three millionths."""

    nudge: int = 0
    powers_of_two: bool = False
    """Attention's weights are relative to a power of two, as its kernels round them."""

    def bf16(self, x: np.ndarray) -> np.ndarray:
        return v4.round_bf16(x * (1 + 3e-6 * self.nudge))

    def kv(self, x: np.ndarray, rope_dims: int) -> np.ndarray:
        """bf16 everywhere, then FP8 by 64 channels on all but the rotated dims."""
        x, nope = self.bf16(x), x.shape[-1] - rope_dims
        return np.concatenate([v4.fp8_roundtrip(x[..., :nope], 64), x[..., nope:]], axis=-1)

    def index(self, x: np.ndarray) -> np.ndarray:
        return v4.fp4_roundtrip(self.bf16(v4.hadamard(self.bf16(x))), 32)


def float64(arguments: Arguments) -> Arguments:
    """Arrays as float64 (integers as int64) numpy, everything else as it is."""

    def convert(value: Any) -> Any:
        if not isinstance(value, mx.array):
            return value
        if value.dtype == mx.bfloat16:  # numpy has no bfloat16
            value = value.astype(mx.float32)
        return np.array(value, np.int64 if mx.issubdtype(value.dtype, mx.integer) else np.float64)

    return {name: convert(value) for name, value in arguments.items()}


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, inverse: bool = False) -> np.ndarray:
    """Complex product on adjacent pairs of the last dims; cos and sin need not be of an angle."""
    nope = x.shape[-1] - 2 * cos.shape[-1]
    pairs = x[..., nope::2] + 1j * x[..., nope + 1 :: 2]
    turned = pairs * (cos + (-1j if inverse else 1j) * sin)
    tail = np.stack([turned.real, turned.imag], axis=-1).reshape(x[..., nope:].shape)
    return np.concatenate([x[..., :nope], tail], axis=-1)


def hc_pre(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    B, S, N, D = a["streams"].shape
    streams = a["streams"].reshape(B * S, N, D)
    mixes = v4._normalised_projection(streams, a["fn"], a["norm_eps"])
    pre, post, comb = v4.sinkhorn_split(
        mixes, a["scale"], a["base"], streams=N, iterations=a["iters"], eps=a["hc_eps"]
    )
    u = np.einsum("sn,snd->sd", pre, streams)
    u = rounding.bf16(u) if a["official"] else u
    normed = v4.rms_norm(u, a["norm_weight"], a["norm_eps"])
    return normed.reshape(B, S, D), post.reshape(B, S, N), comb.reshape(B, S, N, N)


def hc_post(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    B, S, N, D = a["streams"].shape
    y = a["y"]
    if a.get("routed") is not None:
        y = a["routed"].sum(axis=2) + y
        y = rounding.bf16(y) if a["official"] else y
    mixed = v4.hyper_post(
        y.reshape(B * S, D),
        a["streams"].reshape(B * S, N, D),
        a["post"].reshape(B * S, N),
        a["comb"].reshape(B * S, N, N),
    ).reshape(B, S, N, D)
    return (rounding.bf16(mixed) if a["official"] else mixed,)


def hc_post_pre(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    (mixed,) = hc_post(a, rounding)
    return mixed, *hc_pre({**a, "streams": mixed}, rounding)


def hc_head(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    B, S, N, D = a["streams"].shape
    streams = a["streams"].reshape(B * S, N, D)
    mixes = v4._normalised_projection(streams, a["fn"], a["norm_eps"])
    weights = 1 / (1 + np.exp(-(mixes * a["scale"] + a["base"]))) + a["hc_eps"]
    hidden = np.einsum("sn,snd->sd", weights, streams)
    hidden = rounding.bf16(hidden) if a["official"] else hidden
    return (v4.rms_norm(hidden, a["norm_weight"], a["norm_eps"]).reshape(B, S, D),)


def engram_rows(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    """In Python's integers; history and tokens are one text, of which the first rows are left."""
    text = np.concatenate([a["history"], a["tokens"]], axis=1)
    size, kept = a["token_map"].size, a["history"].shape[1]
    known = (text >= 0) & (text < size)
    ids = np.where(known, a["token_map"][np.where(known, text, 0)], -1)
    pad, primes = int(a["token_map"][a["pad_token_id"]]), a["primes"].tolist()
    rows = [engram_numpy.hashed(one, a["multipliers"].tolist(), primes, pad)[kept:] for one in ids]
    return np.stack(rows), text[:, text.shape[1] - kept :]


def engram_gate(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    """The gate is off by float32 noise itself, which shows where stream and value nearly cancel."""
    kv, moved = a["kv"].copy(), 1 + 3e-6 * rounding.nudge
    kv[:, :, -1] *= moved
    added = engram_numpy.gated(a["streams"], kv, a["q_weight"] * a["k_weight"])
    return (rounding.bf16(added) if a["official"] else added,)


def qkv_prepare(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    residual, kv = np.split(a["projected"], [a["q_norm_weight"].size], axis=-1)
    residual = v4.rms_norm(residual, a["q_norm_weight"], a["eps"])
    kv = rotate(v4.rms_norm(kv, a["kv_norm_weight"], a["eps"]), a["cos"], a["sin"])
    if a["official"]:
        residual, kv = rounding.bf16(residual), rounding.kv(kv, 2 * a["cos"].shape[-1])
    return residual, kv


def q_prepare(a: Arguments, rounding: Rounding) -> tuple[np.ndarray | None, ...]:
    def heads(x: np.ndarray, count: int, width: int) -> np.ndarray:
        return x.reshape(*x.shape[:2], count, width)

    cos, sin = a["cos"][:, None], a["sin"][:, None]
    q, index_q = np.split(a["projected"], [a["heads"] * a["width"]], axis=-1)
    q = v4.rms_norm(heads(q, a["heads"], a["width"]), 1.0, a["eps"])
    q = rotate(rounding.bf16(q) if a["official"] else q, cos, sin)
    if a["index_heads"] == 0:
        return q, None
    index_q = rotate(heads(index_q, a["index_heads"], a["index_width"]), cos, sin)
    return q, rounding.index(index_q) if a["official"] else index_q


def compress(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    """Position by position; what comes before the windows is pooled too, and its entry dropped."""
    R, c, T = a["ratio"], a["bias"].shape[-1], a["windows"]
    overlaps = c > a["norm_weight"].size
    earlier = min(a["first_window"], 1) if overlaps else 0
    positions = (a["first_window"] - earlier) * R + np.arange((earlier + T) * R)
    taken = a["rows"][:, (positions - a["origin"]) % a["rows"].shape[1]]
    values = taken[..., a["kv_column"] : a["kv_column"] + c]
    scores = taken[..., a["gate_column"] : a["gate_column"] + c] + a["bias"][positions % R]
    pool = v4.csa_pool if overlaps else v4.hca_pool
    pooled = [pool(v, s, R)[earlier:] for v, s in zip(values, scores, strict=True)]
    entries = np.stack(pooled).reshape(len(pooled), T, a["norm_weight"].size)
    entries = rotate(v4.rms_norm(entries, a["norm_weight"], a["eps"]), a["cos"], a["sin"])
    if a["rounding"] == "kv":
        entries = rounding.kv(entries, 2 * a["cos"].shape[-1])
    elif a["rounding"] == "index":
        entries = rounding.index(entries)
    return (entries,)


def stored_keys(stored: np.ndarray, width: int) -> np.ndarray:
    """Index keys [..., width] from rows of numbers or of bytes, both as float64."""
    if stored.shape[-1] == width:
        return stored
    raw = stored.astype(np.uint8)
    codes = formats_numpy.decode_e2m1_pairs(raw[..., : width // 2])
    scales = np.repeat(formats_numpy.decode_e8m0(raw[..., width // 2 :]), 32, axis=-1)
    return codes * scales[..., :width]


def index_topk(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    q, weights = a["index_q"], a["head_weights"] * a["scale"]
    keys = stored_keys(a["keys"], q.shape[-1])
    S, T = q.shape[1], keys.shape[1]
    positions = a["first_position"] + np.arange(S)
    visible = np.arange(T) < ((positions + 1) // a["ratio"])[:, None]
    selected = np.full((*q.shape[:2], min(a["k"], T)), -1)
    for b in range(len(q)):
        scores = v4.index_scores(q[b], keys[b], weights[b])
        rows, _ = v4.select_top_k(np.where(visible, scores, -np.inf), selected.shape[-1])
        for s, row in enumerate(rows):
            selected[b, s, : len(row)] = row
    return (selected,)


def latents(stored: np.ndarray, width: int, rope_dims: int) -> np.ndarray:
    """Rows of the cache as numbers: integers are bytes of the compact storage."""
    if stored.dtype != np.int64:
        return stored
    raw, nope = stored.astype(np.uint8), width - rope_dims
    codes, rotated, scales = np.split(raw, [nope, nope + 2 * rope_dims], axis=-1)
    scales = np.repeat(formats_numpy.decode_e8m0(scales), 64, axis=-1)[..., :nope]
    low, high = rotated[..., ::2].astype(np.uint16), rotated[..., 1::2].astype(np.uint16)
    plain = formats_numpy.decode_e4m3(codes) * scales
    return np.concatenate([plain, formats_numpy.decode_bf16(low | high << 8)], axis=-1)


def sparse_attention(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    """Masks written out key by key, row by row of the batch."""
    return (np.stack([_attention(a, rounding, row) for row in range(len(a["q"]))]),)


def _attention(a: Arguments, rounding: Rounding, row: int) -> np.ndarray:
    q, stored = a["q"][row], a["window"][row]
    (S, _, K), n, rope_dims = q.shape, len(stored), 2 * a["cos"].shape[-1]
    positions = a["first_position"] + np.arange(S)
    held = np.arange(max(0, positions[-1] + 1 - n), positions[-1] + 1)
    keys = latents(stored, K, rope_dims)[(held - a["origin"]) % n]
    distance = positions[:, None] - held
    seen = (distance >= 0) & (distance < a["sliding_window"])
    if a["entries"] is not None and a["entries"].shape[1]:
        T = a["entries"].shape[1]
        chosen = np.arange(T) < ((positions + 1) // a["ratio"])[:, None]
        if a["selected"] is not None:
            chosen = np.array([np.isin(np.arange(T), ids) for ids in a["selected"][row]])
        keys = np.concatenate([keys, latents(a["entries"][row], K, rope_dims)])
        seen = np.concatenate([seen, chosen], axis=1)
    used = seen.any(axis=0)  # 0 times NaN is not 0
    keys, seen = keys[used], seen[:, used]
    z = np.einsum("shd,td->sht", q, keys) * K**-0.5
    z = np.where(seen[:, None], z, -np.inf)
    top = z.max(axis=-1, keepdims=True)
    if rounding.powers_of_two:
        top = np.ceil(top / np.log(2)) * np.log(2)
    p = np.exp(z - top)
    total = p.sum(axis=-1, keepdims=True) + np.exp(a["sinks"][:, None] - top)
    o = (rounding.bf16(p) if a["official"] else p) @ keys / total
    o = rotate(o, a["cos"][:, None], a["sin"][:, None], inverse=True)
    return rounding.bf16(o) if a["official"] else o


def dense_matvec(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    return (a["x"] @ a["weight"].T,)


def router(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    experts, weights, _ = v4.route(a["x"] @ a["weight"].T, a["bias"], a["k"], a["scaling"])
    order = np.argsort(experts, axis=1)  # ours are in ascending order
    return tuple(np.take_along_axis(x, order, axis=1) for x in (experts, weights))


def hash_router(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    chosen = a["table"][a["tokens"]]
    logits = a["x"] @ a["weight"].T
    experts, weights, _ = v4.route(logits, None, chosen.shape[1], a["scaling"], chosen=chosen)
    return experts, weights


def packed_values(a: Arguments) -> np.ndarray:
    """The numbers of a weight that MLX packed, of its words, scales and biases."""
    bits, words = a["bits"], a["codes"].astype(np.uint32)
    width = words.shape[-1] * 32 // bits
    stream = (words[..., None] >> np.arange(32, dtype=np.uint32) & 1).reshape(*words.shape[:-1], -1)
    codes = stream.reshape(*words.shape[:-1], width, bits) @ (1 << np.arange(bits))
    if a["biases"] is not None:
        return codes * spread(a, "scales") + spread(a, "biases")
    exponent_bits, bias = (2, 1) if bits == 4 else (4, 7)
    mantissa_bits = bits - 1 - exponent_bits
    exponent = codes >> mantissa_bits & (1 << exponent_bits) - 1
    fraction = (codes & (1 << mantissa_bits) - 1) / (1 << mantissa_bits) + (exponent > 0)
    sign = np.where(codes >> (bits - 1) & 1, -1.0, 1.0)
    values = sign * fraction * np.exp2(np.maximum(exponent, 1) - float(bias))
    return values * np.exp2(spread(a, "scales") - 127.0)


def spread(a: Arguments, name: str) -> np.ndarray:
    """A number for each group, for each of the group's weights."""
    return np.repeat(a[name], a["group_size"], axis=-1)


def packed_matvec(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    M, g, width = a["x"].shape
    matrices = packed_values(a).reshape(g, -1, width)
    return (np.einsum("mgk,gok->mgo", a["x"], matrices).reshape(M, -1),)


def expert_matvec(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    M, k = a["experts"].shape
    rows = np.repeat(a["x"], M * k // len(a["x"]), axis=0).reshape(M, k, -1)
    return (np.einsum("mki,mkoi->mko", rows, packed_values(a)[a["experts"]]),)


def expert_matmul(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    E, out, words = a["codes"].shape
    codes = a["codes"][..., None] >> (4 * np.arange(8)) & 15
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])[codes & 7] * np.where(codes & 8, -1.0, 1.0)
    scales = np.repeat(np.exp2(a["scales"] - 127.0), 32, axis=-1)
    matrices = values.reshape(E, out, 8 * words) * scales
    x = a["x"] if a["rows"] is None else a["x"][a["rows"]]
    return (np.einsum("rk,rok->ro", x, matrices[a["experts"]]),)


def swiglu(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    def clamped(gate_up: np.ndarray) -> np.ndarray:
        gate, up = np.split(gate_up, 2, axis=-1)
        return v4.swiglu_clamped(gate, up, a["limit"] or np.inf)

    activated = clamped(a["gate_up"])
    if a["weights"] is not None:
        activated = activated * a["weights"][:, None]
    return (activated,) if a["shared"] is None else (activated, clamped(a["shared"]))


def embed_streams(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    tokens, table = a["tokens"], a["table"]
    embedded = np.full((*tokens.shape, a["streams"], table.shape[1]), np.nan)
    for place in np.ndindex(tokens.shape):
        if 0 <= tokens[place] < len(table):
            embedded[place] = table[tokens[place]]
    return (embedded,)


def expert_sum(a: Arguments, rounding: Rounding) -> tuple[np.ndarray, ...]:
    total = a["routed"].sum(axis=1) + a["shared"]
    return (rounding.bf16(total) if a["official"] else total,)


FLOAT64: dict[str, Callable[[Arguments, Rounding], tuple[np.ndarray | None, ...]]] = {
    function.__name__: function
    for function in (
        embed_streams, engram_rows, engram_gate, hc_pre, hc_post, hc_post_pre, hc_head,
        qkv_prepare, q_prepare, compress, index_topk,
        sparse_attention, dense_matvec, packed_matvec, router, hash_router, expert_matmul,
        expert_matvec, swiglu, expert_sum,
    )
}  # fmt: skip
