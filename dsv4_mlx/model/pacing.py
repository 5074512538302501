"""How a prompt's chunk is evaluated on a GPU: a few layers at a time, two groups of them under way.

Left to itself MLX would put as many launches into a command buffer as its limits say, however long
they take, and hold the arrays of all that it has queued. Metal ends a buffer that keeps the GPU for
seconds; with this bound the longest is one layer of a chunk, or as many as have 512 tokens
together, whatever the limits are.
"""

import mlx.core as mx

TOKEN_LAYERS = 512
"""Tokens times layers of one evaluation, where a chunk has no more tokens than that."""
UNDER_WAY = 2
"""Evaluations whose arrays are in memory at a time."""


def layers_at_a_time(tokens: int) -> int:
    """Layers of one evaluation of a chunk of `tokens`."""
    return max(1, TOKEN_LAYERS // tokens)


class Pace:
    """Evaluates the layers of one call as they are built."""

    def __init__(self, tokens: int) -> None:
        """`tokens` of the call, all rows together."""
        self._layers = layers_at_a_time(tokens)
        self._number = 0
        self._before: mx.array | None = None

    def after(self, streams: mx.array) -> None:
        """One layer more gives `streams`: start its group when that is complete, and wait for the
        group before, so that the GPU has always one to go on with."""
        self._number += 1
        if self._number % self._layers:
            return
        mx.async_eval(streams)  # type: ignore[no-untyped-call]
        if self._before is not None:
            mx.eval(self._before)
        self._before = streams
