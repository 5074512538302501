"""Small models with the oracle's seeded weights, so that ours and the oracle can be laid side by
side: `model(...)` is ours, `CONFIG` and `weights(...)` are the oracle's."""

from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.cache import LayerCache, for_one_call
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.layer_roles import layer_role
from dsv4_mlx.release.naming import translate
from dsv4_mlx.release.spellings import config_of
from tests.oracle.tiny import TINY, random_weights

CONFIG: dict[str, Any] = {
    **TINY,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hc_sinkhorn_iters": 2,  # the release's twenty would be a third of what a token takes
}
SLIDING, SPARSE, HEAVY = ROLES = [layer_role(ratio, layer=0) for ratio in (0, 4, 128)]
TOKENS = np.random.default_rng(1).integers(2, CONFIG["vocab_size"], 300)


def config(**changes: object) -> dict[str, Any]:
    """CONFIG with other numbers."""
    return {**CONFIG, **changes}


def one_layer(ratio: int, **changes: object) -> dict[str, Any]:
    """A model of one score-routed layer with that compress ratio."""
    schedule = {"num_hidden_layers": 1, "num_hash_layers": 0, "compress_ratios": [ratio, 0]}
    return config(**{**schedule, **changes})


def weights(settings: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """The oracle's tensors of a config, as float32 can hold them."""
    tensors = random_weights(settings, seed)
    return {name: _float32(value) for name, value in tensors.items()}


def _float32(value: np.ndarray) -> np.ndarray:
    return value if value.dtype.kind == "i" else value.astype(np.float32).astype(np.float64)


def model(
    settings: dict[str, Any],
    tensors: dict[str, np.ndarray],
    numerics: Numerics = Numerics.PLAIN,
) -> Model:
    """Our model with the oracle's tensors."""
    ours = Model(config_of(settings), numerics=numerics, backend="cpu")
    ours.load_weights(list(parameters(tensors).items()), strict=True)
    ours.join()
    mx.eval(ours.parameters())
    return ours


def parameters(tensors: dict[str, np.ndarray]) -> dict[str, mx.array]:
    """Official names -> our names, experts stacked with the gate's rows first."""
    placed: dict[str, Any] = {}
    experts: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    for name, value in tensors.items():
        target = translate(name)
        assert target is not None, name
        if target.expert is None:
            placed[target.name] = value
        else:
            half = 1 if name.endswith("w3.weight") else 0
            experts.setdefault(target.name, {})[target.expert, half] = value
    for name, parts in experts.items():
        count = 1 + max(expert for expert, _ in parts)
        halves = 1 + max(half for _, half in parts)
        placed[name] = np.stack(
            [np.concatenate([parts[e, h] for h in range(halves)]) for e in range(count)]
        )
    return {
        name: mx.array(value.astype(np.int32 if value.dtype.kind == "i" else np.float32))
        for name, value in placed.items()
    }


def logits(ours: Model, tokens: Any, cache: list[LayerCache] | None = None) -> np.ndarray:
    """[S] or [B, S] token ids -> logits of the same leading shape, float64."""
    ids = np.asarray(tokens)
    result = ours(mx.array(np.atleast_2d(ids).astype(np.int32)), cache)
    return np.array(result, np.float64).reshape(*ids.shape, -1)


def in_chunks(ours: Model, tokens: Any, sizes: list[int], cache: Any = None) -> np.ndarray:
    """Logits [S, V] of a call per chunk, the last size repeated as often as it takes."""
    cache = ours.make_cache() if cache is None else cache
    found, start = [], 0
    while start < len(tokens):
        size = sizes[min(len(found), len(sizes) - 1)]
        found.append(logits(ours, tokens[start : start + size], cache))
        start += size
    return np.concatenate(found)


def block(ours: Model, number: int, streams: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """One of our layers on streams [S, N, D] of tokens [S] at positions 0.."""
    layer = ours.layers[number]
    cache = for_one_call(ours.config.layer_roles[number])
    inputs = mx.array(streams.astype(np.float32))[None]
    return np.array(layer(inputs, mx.array(tokens)[None], cache)[0], np.float64)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Root of the normalised mean squared error."""
    return float(np.sqrt(np.sum((found - expected) ** 2) / np.sum(expected**2)))
