"""The numbers of Engram's rows: N-grams of compressed token ids, hashed."""

import mlx.core as mx


def engram_rows(
    tokens: mx.array,
    history: mx.array,
    token_map: mx.array,
    multipliers: mx.array,
    primes: mx.array,
    *,
    pad_token_id: int,
) -> tuple[mx.array, mx.array]:
    """Rows int32 [B, S, R] that the tokens look up, and the last tokens int32 [B, H].

    tokens [B, S] of any integer dtype, history [B, H] the H tokens before them, token_map [V]
    int32; multipliers [H + 1] and primes [R] int64, R being a multiple of H: the first R / H primes
    belong to N-grams of two tokens, the next to those of three and so on. Each is the number of
    rows of one table, and the tables lie one after the other. `x_0 a_0 xor ... xor x_m a_m` modulo
    the prime is the row, x_0 being the token itself. A token outside 0..V-1, as -1 where a text
    begins, counts as `pad_token_id`, and so do all before it. The last tokens are those of history
    and tokens together.
    """
    S, H = tokens.shape[1], history.shape[1]
    sequence = mx.concatenate([history.astype(mx.int64), tokens.astype(mx.int64)], axis=1)
    known = (sequence >= 0) & (sequence < token_map.shape[0])
    wide = token_map.astype(mx.int64)
    ids, pad = wide[mx.where(known, sequence, 0)], wide[pad_token_id]
    heads = primes.shape[0] // H
    seen, mixed = known[:, H:], mx.zeros(tokens.shape, mx.int64)
    buckets = []
    for back in range(H + 1):
        span = slice(H - back, H - back + S)
        seen = seen & known[:, span]
        mixed = mixed ^ (mx.where(seen, ids[:, span], pad) * multipliers[back])
        if back:
            buckets.append(mixed[..., None] % primes[(back - 1) * heads : back * heads])
    first = mx.cumsum(primes) - primes
    rows = (mx.concatenate(buckets, axis=-1) + first).astype(mx.int32)
    return rows, sequence[:, S:].astype(mx.int32)
