"""What should stay resident in memory while a model is used on Metal."""

from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.sizing.costs import Kv
from dsv4_mlx.sizing.machines import GIB, memory_needed
from dsv4_mlx.sizing.prefill import CONTEXT, LONG_CHUNK, chunk_bytes

MARGIN_BYTES = 2 * GIB
"""For snapshots, and for what MLX keeps of freed arrays."""


def held_bytes(
    config: DeepseekV4Config, weight_bytes: int, context: int | None = None, kv: Kv = "compact"
) -> int:
    """Weights, the cache of `context` tokens (CONTEXT by default), working memory, the arrays of a
    long chunk of a prompt, and a margin; a device may recommend less."""
    context = min(context or CONTEXT, config.max_position_embeddings)
    needed = memory_needed(config, weight_bytes, context, kv)
    return needed + chunk_bytes(config, LONG_CHUNK) + MARGIN_BYTES
