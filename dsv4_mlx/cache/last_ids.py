"""The last token ids of a timeline, which Engram's N-grams reach back to.

A few numbers that are replaced with every call: no ring, so that their order is that of the text.
"""

import mlx.core as mx

from dsv4_mlx.cache.state import LayerState


def follow(state: LayerState, tokens: mx.array, before: mx.array, last: mx.array) -> None:
    """Keep the `last` ids [B, n] after tokens [B, S] from the state's position on.

    `before` [B, n] are the ids before those tokens; moments inside of the call get their own.
    """
    for offset, rings in state.moments.items():
        seen = tokens[:, : offset - state.position].astype(mx.int32)
        rings["ids"] = mx.concatenate([before, seen], axis=1)[:, seen.shape[1] :]
    if state.block is not None:
        if state.block.first_ids is None:
            state.block.first_ids = before
        state.block.add("ids", tokens)
    if not state.one_call:
        state.ids = last
