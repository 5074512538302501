"""DSpark's stages in float64 numpy: one block of drafts after given taps, no ring and no cache.

Weights carry the official checkpoint's names and the configuration is the official config.json as
a dictionary, as in `v4_numpy`, whose parts this is made of. Nothing is rounded. Written from the
design's section 4.

Shapes: S rows of context, B rows of the block, N streams, D hidden, H heads, d head dim, V
vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.oracle import v4_numpy as v4


@dataclass(frozen=True)
class Drafted:
    """Ids [B], confidence logits [B], logits without the Markov head [B, V], hidden rows [B, D]."""

    ids: np.ndarray
    confidence: np.ndarray
    logits: np.ndarray
    hidden: np.ndarray


def draft(
    config: Mapping[str, Any], weights: v4.Weights, taps: np.ndarray, start: int, anchor: int
) -> Drafted:
    """The block after `anchor` at position `start` + S; `taps` [S, 3 D] are of the S <= W positions
    before it."""
    count = len(config["compress_ratios"]) - config["num_hidden_layers"]
    eps = config["rms_norm_eps"]
    stages = [v4.Layer(config, weights, f"mtp.{n}.", 0, False, False) for n in range(count)]
    first, last, size = stages[0], stages[-1], config["dspark_block_size"]
    context = v4.rms_norm(taps @ first["main_proj.weight"].T, first["main_norm.weight"], eps)
    ids = [anchor, *[config["dspark_noise_token_id"]] * (size - 1)]
    streams = np.repeat(weights["embed.weight"][ids][:, None], config["hc_mult"], axis=1)
    for stage in stages:
        streams = _stage(stage, streams, context, start)
    hidden = _hidden(last, streams)
    logits = v4.rms_norm(hidden, last["norm.weight"], eps) @ weights["head.weight"].T
    return Drafted(*_markov(last, hidden, logits, anchor), logits, hidden)


def _stage(stage: v4.Layer, streams: np.ndarray, context: np.ndarray, start: int) -> np.ndarray:
    eps = stage.config["rms_norm_eps"]
    u, post, comb = v4._hyper_pre(stage, "attn", streams)
    attended = _attention(stage, v4.rms_norm(u, stage["attn_norm.weight"], eps), context, start)
    streams = v4.hyper_post(attended, streams, post, comb)
    u, post, comb = v4._hyper_pre(stage, "ffn", streams)
    unused = np.zeros(len(u), np.int64)  # no stage routes by token
    mixed, _ = v4._moe(stage, v4.rms_norm(u, stage["ffn_norm.weight"], eps), unused, None)
    return v4.hyper_post(mixed, streams, post, comb)


def _attention(stage: v4.Layer, x: np.ndarray, context: np.ndarray, start: int) -> np.ndarray:
    """Normed rows [B, D] to all rows of `context` and of the block -> [B, D]."""
    config, eps = stage.config, stage.config["rms_norm_eps"]
    heads, dim = config["num_attention_heads"], config["head_dim"]
    places = start + np.arange(len(context) + len(x))
    angles = stage.angles(places[len(context) :])
    residual = v4.rms_norm(x @ stage["attn.wq_a.weight"].T, stage["attn.q_norm.weight"], eps)
    q = (residual @ stage["attn.wq_b.weight"].T).reshape(len(x), heads, dim)
    q = v4.apply_rope(v4.rms_norm(q, 1.0, eps), angles)
    rows = np.concatenate([context, x]) @ stage["attn.wkv.weight"].T
    keys = v4.apply_rope(v4.rms_norm(rows, stage["attn.kv_norm.weight"], eps), stage.angles(places))
    seen = np.ones((len(x), len(keys)), bool)
    o = v4.sink_attention(q, keys, seen, stage["attn.attn_sink"], dim**-0.5)
    return v4._grouped_output(stage, v4.apply_rope(o, angles, inverse=True))


def _hidden(last: v4.Layer, streams: np.ndarray) -> np.ndarray:
    """The hyper head's sum, before the norm: [B, N, D] -> [B, D]."""
    mixes = v4._normalised_projection(streams, last["hc_head_fn"], last.config["rms_norm_eps"])
    mixes = mixes * last["hc_head_scale"] + last["hc_head_base"]
    weights = 1 / (1 + np.exp(-mixes)) + last.config["hc_eps"]
    return np.einsum("sn,snd->sd", weights, streams)


def _markov(
    last: v4.Layer, hidden: np.ndarray, logits: np.ndarray, anchor: int
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest token after each one, and the confidence in it."""
    previous, ids, confidence = anchor, [], []
    for h, row in zip(hidden, logits, strict=True):
        embedded = last["markov_head.markov_w1.weight"][previous]
        corrected = row + last["markov_head.markov_w2.weight"] @ embedded
        confidence.append(last["confidence_head.proj.weight"][0] @ np.concatenate([h, embedded]))
        previous = int(corrected.argmax())
        ids.append(previous)
    return np.array(ids), np.array(confidence)
