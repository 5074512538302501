"""A tiny drafter of DSpark's form, weights and taps a formula of their names, and its drafts.

So no file is needed, and other programs can be given the same. The values are of section 6 of the
design of speculation: computed in float64 and printed to six digits.
"""

from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.cache.layouts import PLAIN
from dsv4_mlx.model.dspark import DSparkBlock, DSparkStage
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.release.config import FLASH, DSpark
from dsv4_mlx.release.naming import translate
from metal_kernels import registry

CONFIG = FLASH.replace(
    vocab_size=96,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    head_dim=32,
    qk_rope_head_dim=8,
    q_lora_rank=32,
    o_groups=2,
    o_lora_rank=16,
    moe_intermediate_size=32,
    n_routed_experts=8,
    num_experts_per_tok=2,
    sliding_window=16,
    index_n_heads=4,
    index_head_dim=32,
    compress_ratios=(0, 0, 0, 0, 0, 0),
    dspark=DSpark(5, 95, (0, 1, 2), 8),
)
D, V, WIDTH, STAGES = 64, 96, 192, 3

# anchor, taps absorbed before it, drafts, confidence logits, first logits of the first row
ROUNDS: dict[str, list[tuple[int, int, list[int], list[float], list[float]]]] = {
    "A": [
        (9, 3, [7, 59, 59, 59, 59],
         [-0.733516, -7.194837, -7.540274, -8.349614, -8.971066],
         [-0.88194, -1.020359, -0.926904, -0.622812]),
        (1, 17, [94, 72, 59, 59, 59],
         [-14.051361, -7.094411, -7.373635, -8.819824, -10.435808],
         [0.328985, 0.7508, 1.001999, 1.025496]),
        (3, 40, [85, 59, 59, 59, 59],
         [-6.163402, -8.882651, -9.407491, -9.506683, -9.490538],
         [-1.92388, -1.608773, -0.928077, -0.036478]),
        (2, 41, [24, 6, 85, 59, 59],
         [0.136647, -8.852142, -9.059696, -9.440843, -10.145785],
         [0.52659, 0.190492, -0.188894, -0.525355]),
    ],
    "B": [
        (23, 5, [32, 7, 59, 59, 59],
         [-4.501646, -9.317604, -9.429911, -9.918758, -9.993123],
         [-0.9101, -0.704243, -0.338349, 0.104434]),
        (1, 60, [72, 59, 59, 59, 59],
         [-9.66086, -9.390812, -9.672847, -9.63814, -9.408651],
         [-1.640487, -1.35321, -0.758419, 0.008721]),
        (4, 11, [10, 32, 7, 59, 59],
         [-0.557029, -8.115309, -8.289648, -9.143096, -10.789037],
         [0.331308, 0.001097, -0.329364, -0.584977]),
        (1, 12, [95, 85, 59, 59, 59],
         [-12.143519, -9.029124, -9.487378, -10.289561, -10.988376],
         [0.170782, 0.690503, 1.05331, 1.176755]),
    ],
}  # fmt: skip


def filled(name: str, shape: tuple[int, ...], a: float, z: float = 0.0) -> np.ndarray:
    s = sum(j * ord(letter) for j, letter in enumerate(name, 1)) % 9973
    i = np.arange(1, np.prod(shape) + 1, dtype=np.float64)
    values = a * np.sin(0.7 * i * (1 + (s % 97) / 97) + s) + z
    return values.reshape(shape).astype(np.float32)


def size_and_middle(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if "hc_" in name:
        ending = name.rsplit("_", 1)[1]
        return {"fn": (0.05, 0.0), "base": (0.3, 0.0), "scale": (0.2, 0.8)}[ending]
    if name.endswith("norm.weight"):
        return 0.1, 1.0
    if name.endswith("attn_sink"):
        return 0.5, 0.0
    if name.endswith("gate.bias"):
        return 0.2, 0.0
    if "markov" in name:
        return 0.9, 0.0
    if "confidence" in name:
        return 0.3, 0.0
    return 1.6 / shape[-1] ** 0.5, 0.0


def official_shapes() -> dict[str, tuple[int, ...]]:
    """The stages' tensors under the release's names."""
    one: dict[str, tuple[int, ...]] = {
        "attn.wq_a.weight": (32, D), "attn.q_norm.weight": (32,), "attn.wq_b.weight": (128, 32),
        "attn.wkv.weight": (32, D), "attn.kv_norm.weight": (32,), "attn.attn_sink": (4,),
        "attn.wo_a.weight": (32, D), "attn.wo_b.weight": (D, 32),
        "attn_norm.weight": (D,), "ffn_norm.weight": (D,),
        "ffn.gate.weight": (8, D), "ffn.gate.bias": (8,),
    }  # fmt: skip
    for part in ("attn", "ffn"):
        one |= {f"hc_{part}_fn": (24, 4 * D), f"hc_{part}_base": (24,), f"hc_{part}_scale": (3,)}
    for owner in ("shared_experts", *(f"experts.{number}" for number in range(8))):
        one |= {f"ffn.{owner}.{w}.weight": (32, D) if w != "w2" else (D, 32)
                for w in ("w1", "w2", "w3")}  # fmt: skip
    found = {f"mtp.{stage}.{n}": shape for stage in range(STAGES) for n, shape in one.items()}
    last = f"mtp.{STAGES - 1}."
    return found | {
        "mtp.0.main_proj.weight": (D, WIDTH), "mtp.0.main_norm.weight": (D,),
        f"{last}norm.weight": (D,), f"{last}hc_head_fn": (4, 4 * D), f"{last}hc_head_base": (4,),
        f"{last}hc_head_scale": (1,), f"{last}markov_head.markov_w1.weight": (V, 8),
        f"{last}markov_head.markov_w2.weight": (V, 8),
        f"{last}confidence_head.proj.weight": (1, D + 8),
    }  # fmt: skip


def ours() -> dict[str, np.ndarray]:
    """The same under our names, experts stacked, gate above up."""
    found: dict[str, Any] = {}
    for name, shape in official_shapes().items():
        target = translate(name)
        assert target is not None, name
        values = filled(name, shape, *size_and_middle(name, shape))
        if target.expert is None:
            found[target.name] = values
        else:
            found.setdefault(target.name, {})[target.expert, target.half] = values
    for name, parts in found.items():
        if isinstance(parts, dict):
            halves = 1 + max(half for _, half in parts)
            found[name] = np.stack(
                [np.concatenate([parts[e, h] for h in range(halves)]) for e in range(8)]
            )
    return found


def official_weights() -> dict[str, np.ndarray]:
    """Of the stages, and the target's embedding and head; float32."""
    found = {n: filled(n, s, *size_and_middle(n, s)) for n, s in official_shapes().items()}
    return found | {
        "embed.weight": filled("embed.weight", (V, D), 1),
        "head.weight": filled("head.weight", (V, D), 0.35),
    }


def block() -> DSparkBlock:
    """Our stages with these weights, in plain numerics."""
    ops = registry.plan("cpu").ops
    assert CONFIG.dspark is not None
    stages = [
        DSparkStage(CONFIG, CONFIG.dspark, Numerics.PLAIN, ops, PLAIN, number)
        for number in range(STAGES)
    ]
    weights = ours()
    for number, stage in enumerate(stages):
        prefix = f"mtp.{number}."
        own = {n.removeprefix(prefix): mx.array(w) for n, w in weights.items() if prefix in n}
        stage.load_weights(list(own.items()), strict=True)
    embedding = mx.array(filled("embed.weight", (V, D), 1))
    head = mx.array(filled("head.weight", (V, D), 0.35))
    return DSparkBlock(
        CONFIG, stages, ops, embedding=embedding, head=lambda x: x @ head.T, official=False
    )


def taps(start: int, stop: int) -> mx.array:
    return mx.array(filled("hid", (stop, WIDTH), 1)[start:])[None]
