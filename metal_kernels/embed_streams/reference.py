"""The embedding's rows as residual streams."""

import mlx.core as mx


def embed_streams(tokens: mx.array, table: mx.array, streams: int) -> mx.array:
    """Token ids [B, S] of any integer dtype, table [V, D] -> residual streams [B, S, N, D] float32.

    Every one of the N streams is the row of the token. An id outside 0..V-1 reads nothing: its
    streams are NaN, and no gradient comes from them. NaN in a row stays in its tokens' streams.
    """
    wide = tokens.astype(mx.int64)  # V need not fit the dtype of the ids
    known = (wide >= 0) & (wide < table.shape[0])
    rows = table[mx.where(known, tokens, 0)].astype(mx.float32)
    rows = mx.where(known[..., None], rows, mx.nan)
    return mx.repeat(rows[:, :, None], streams, axis=2)
