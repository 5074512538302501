"""A V4 of two layers that trains in milliseconds, in the formats of the release."""

import mlx.core as mx

from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.nano_recipe import NANO

TINY = NANO.replace(
    vocab_size=1024,
    hidden_size=64,
    head_dim=64,
    qk_rope_head_dim=32,
    q_lora_rank=32,
    o_lora_rank=32,
    index_head_dim=32,
    num_attention_heads=2,
    num_hidden_layers=2,
    sliding_window=16,
    n_routed_experts=4,
    moe_intermediate_size=32,
    compress_ratios=(0, 4, 0),
)
UNTRAINED = ("tid2eid", "e_score_correction_bias")


def weights(seed: int) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
    """Parameters that are trained, and those that are not."""
    every = initial_parameters(TINY, seed)
    fixed = {name: value for name, value in every.items() if name.endswith(UNTRAINED)}
    return {name: value for name, value in every.items() if name not in fixed}, fixed
