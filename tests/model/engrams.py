"""A small model with Engram before two of its layers, its tensors, and the oracle's hashing."""

from typing import Any

import numpy as np

from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.engram_hash import multipliers
from tests.model import small
from tests.oracle.engram_numpy import Hashing

FACTS = EngramConfig((0, 2), 60, 100, max_ngram_size=3, n_heads=2, head_dim=32)
CONFIG: dict[str, Any] = small.config(
    num_hidden_layers=3,
    compress_ratios=[4, 128, 0, 0],
    sliding_window=6,
    index_topk=4,
    engram={
        "layer_ids": [0, 2],
        "compressed_vocab_size": 60,
        "vocab_size": 100,
        "max_ngram_size": 3,
        "n_heads": 2,
        "head_dim": 32,
    },
)
TOKEN_MAP = np.random.default_rng(5).permutation(np.arange(CONFIG["vocab_size"]) % 60).astype("i4")
"""Some ids are one word; every word has an id."""
HASHINGS = {
    layer: Hashing(multipliers(FACTS, layer), FACTS.primes(layer), int(TOKEN_MAP[2]))
    for layer in FACTS.layer_ids
}


def weights(seed: int = 0, settings: dict[str, Any] = CONFIG) -> dict[str, np.ndarray]:
    """The oracle's tensors of CONFIG, or of a config with the same Engram, with those of Engram."""
    tensors, rng = small.weights(settings, seed), np.random.default_rng(seed + 1)
    D, N = settings["hidden_size"], settings["hc_mult"]
    for layer in FACTS.layer_ids:
        shapes = {
            "embed.weight": (FACTS.table_rows(layer), FACTS.head_dim),
            "wkv.weight": ((N + 1) * D, FACTS.width),
            "q_weight": (N, D),
            "k_weight": (N, D),
        }
        for name, shape in shapes.items():
            values = rng.standard_normal(shape)
            values = values * shape[1] ** -0.5 if name == "wkv.weight" else values
            tensors[f"layers.{layer}.engram.{name}"] = values.astype(np.float32).astype(float)
    return tensors


def model(
    tensors: dict[str, np.ndarray],
    numerics: Numerics = Numerics.PLAIN,
    settings: dict[str, Any] = CONFIG,
) -> Model:
    """Our model of CONFIG, or of that config, with these tensors and TOKEN_MAP."""
    ours = small.model(settings, tensors, numerics)
    for engram in ours.engrams().values():
        engram.use_token_map(TOKEN_MAP)
    return ours
