"""What a prompt takes that passes a layer as a whole before the next, as with experts in files."""

from dsv4_mlx.release.config import DeepseekV4Config

PASS_TOKENS = 32_768
"""Most tokens that pass a layer together."""
OFFICIAL_BYTES = 2
"""Of a number of a stream between two layers, under the official numerics; 4 under plain ones."""


def stream_bytes(config: DeepseekV4Config, context: int, number_bytes: int = OFFICIAL_BYTES) -> int:
    """Bytes of the streams between two layers of a prompt of `context` tokens, in passes."""
    return min(context, PASS_TOKENS) * config.hc_mult * config.hidden_size * number_bytes
