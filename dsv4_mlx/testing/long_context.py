"""Caches far beyond what a test can prefill."""

from collections.abc import Sequence

import mlx.core as mx

from dsv4_mlx.cache import LayerCache, LayerState, evaluated

# Rows appended at a time: a copy of what is there would double the memory.
_ROWS_PER_STEP = 1 << 16


def stretched(cache: Sequence[LayerCache], context: int) -> None:
    """Let a prefilled cache stand at `context` tokens: its entries repeat after the real ones.

    The real entries stay as they are. Windows and open rows stay too, which is why the distance has
    to be a multiple of every ring's size; 128 tokens is one of all.
    """
    for layer in cache:
        for state in layer.rows:
            distance = context - state.position
            if distance < 0 or distance % 128:
                raise ValueError(
                    f"expected a context that is a multiple of 128 tokens above {state.position} "
                    f"but found {context}"
                )
            _stretch(state, layer.role.ratio, context)
    mx.eval(evaluated(cache))


def _stretch(state: LayerState, ratio: int, context: int) -> None:
    state.position = context
    for pool in state.pools():
        real, wanted = len(pool), context // ratio
        while len(pool) < wanted:
            rows = pool.rows()
            if rows is None:
                raise ValueError("expected a prefilled cache but found one without entries")
            count = min(real, wanted - len(pool), _ROWS_PER_STEP)
            pool.append(mx.contiguous(rows[:, :count]))
            mx.eval(pool.buffer())
