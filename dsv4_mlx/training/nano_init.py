"""Weights before training: small normal matrices, norms of one, streams that keep themselves."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.stored_weights import parameter_shapes


def initial_parameters(config: DeepseekV4Config, seed: int) -> Parameters:
    """Every parameter of the model by our name: float32, tid2eid int32; the same for one seed."""
    rng = np.random.default_rng(seed)
    return {
        name: _expert_table(config, shape, rng)
        if name.endswith("tid2eid")
        else mx.array(_values(config, name, shape, rng))
        for name, shape in parameter_shapes(config).items()
    }


def _values(
    config: DeepseekV4Config, name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    normal: np.ndarray = rng.standard_normal(shape).astype(np.float32)
    if name.endswith(("norm.weight", "engram.q_weight", "engram.k_weight")):
        return np.ones(shape, np.float32)
    if name.endswith(("hc.base", "hc_base")):
        return _hyper_connection_base(config.hc_mult, shape)
    if name.endswith(("hc.scale", "hc_scale")):
        return np.full(shape, 0.1, np.float32)
    if name.endswith(("e_score_correction_bias", "sinks", "position_bias")):
        return np.zeros(shape, np.float32)
    if name.endswith(("embed_tokens.weight", "engram.table.weight")):
        return normal
    if name.endswith("engram.kv_proj.weight"):
        normal[-config.hidden_size :] = 0  # the value: at first nothing is added to the streams
    gain = 0.5 if name.endswith("lm_head.weight") else 1.0
    return normal * np.float32(gain * shape[-1] ** -0.5)


def _hyper_connection_base(streams: int, shape: tuple[int, ...]) -> np.ndarray:
    """Collapse with weight 1/2 each, give the output to all, mix little at first."""
    base = np.zeros(shape, np.float32)
    if base.size > streams:
        base[2 * streams :: streams + 1] = 4.0  # the diagonal of the mixing matrix
    return base


def _expert_table(
    config: DeepseekV4Config, shape: tuple[int, ...], rng: np.random.Generator
) -> mx.array:
    """tid2eid: every token id gets its own random experts."""
    order = rng.random((shape[0], config.n_routed_experts)).argsort(axis=1)
    return mx.array(order[:, : shape[1]].astype(np.int32))
