"""How many tokens of a prompt are read at a time, by the memory that is left for it.

A long chunk reads an expert's weights once for more tokens and multiplies fewer rows in vain, a
short one needs less memory: `benchmarks.prefill` counts both.
"""

from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_roles import LayerRole
from dsv4_mlx.sizing.costs import Kv
from dsv4_mlx.sizing.machines import memory_needed

SHORT_CHUNK = 512
LONG_CHUNK = 2_048
CONTEXT = 32_768
"""Tokens of a conversation that a long chunk leaves room for."""
# Layers whose arrays are in memory at a time: `pacing.UNDER_WAY` groups of one.
_LAYERS = 2


def chunk_that_fits(
    config: DeepseekV4Config,
    weight_bytes: int,
    limit: int | None,
    backend: str,
    kv: Kv = "compact",
    *,
    by_layers: int = 0,
) -> int:
    """LONG_CHUNK where its arrays fit into `limit` bytes beside weights and cache, else
    SHORT_CHUNK: also where nobody tells the limit, and on a CPU, whose products gain nothing.
    `by_layers` is as for `memory_needed`."""
    if backend == "cpu" or limit is None:
        return SHORT_CHUNK
    context = min(CONTEXT, config.max_position_embeddings)
    needed = memory_needed(config, weight_bytes, context, kv, by_layers=by_layers)
    return LONG_CHUNK if needed + chunk_bytes(config, LONG_CHUNK) <= limit else SHORT_CHUNK


def chunk_bytes(config: DeepseekV4Config, tokens: int) -> int:
    """Most bytes of arrays that reading `tokens` at once, 512 or more, has in memory on a GPU."""
    widest = max(_layer_floats(config, role) for role in config.layer_roles)
    return 4 * tokens * _LAYERS * (widest + _engram_floats(config))


def _engram_floats(config: DeepseekV4Config) -> int:
    """Float32 numbers of one token that Engram's launches write before a layer's."""
    if config.engram is None:
        return 0
    return config.engram.width + (2 * config.hc_mult + 1) * config.hidden_size


def _layer_floats(config: DeepseekV4Config, role: LayerRole) -> int:
    """Float32 numbers of one token that the launches of a layer write."""
    D, N, heads = config.hidden_size, config.hc_mult, config.num_attention_heads
    queries = heads * config.head_dim + role.selects * config.index_n_heads * config.index_head_dim
    raw = 2 * role.spanned * (config.head_dim + role.selects * config.index_head_dim)
    low_rank = config.o_groups * config.o_lora_rank
    width, k = config.moe_intermediate_size, config.num_experts_per_tok
    shared = width * config.n_shared_experts
    attention = 2 * (config.q_lora_rank + config.head_dim) + raw + 2 * queries
    attention += heads * config.head_dim + 2 * low_rank + D
    experts = k * (3 * D + 3 * width) + 3 * shared + D
    return attention + experts + 2 * N * D + 2 * D
