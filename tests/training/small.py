"""The config of small trained models: nano's kinds of layers, a few rows wide."""

from dsv4_mlx.training.nano_recipe import NANO

SMALL = NANO.replace(
    vocab_size=64,
    hidden_size=64,
    head_dim=64,
    qk_rope_head_dim=32,
    q_lora_rank=32,
    o_lora_rank=32,
    index_head_dim=32,
    num_attention_heads=2,
    num_hidden_layers=3,
    sliding_window=8,
    n_routed_experts=4,
    moe_intermediate_size=32,
    compress_ratios=(0, 4, 128, 0),
)
