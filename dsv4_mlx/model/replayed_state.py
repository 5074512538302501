"""What a replayed graph takes of a layer's state, computes with and gives back."""

from typing import TYPE_CHECKING, Any

from dsv4_mlx.cache.entries import Entries, MovingEntries
from dsv4_mlx.cache.layouts import EntryLayout
from dsv4_mlx.cache.moving import Moving
from dsv4_mlx.cache.state import LayerState

if TYPE_CHECKING:
    from dsv4_mlx.model.decoder_layer import DecoderLayer

ReplayedArrays = list[Any]


def taken(state: LayerState, closes: bool) -> ReplayedArrays:
    """The arrays of a layer: rings, whole buffers, with room where a window closes, last ids."""
    return [*_rings(state), *(pool.whole(int(closes)) for pool in state.pools()), *_ids(state)]


def _rings(state: LayerState) -> ReplayedArrays:
    return [state.window] if state.open_rows is None else [state.window, state.open_rows]


def _ids(state: LayerState) -> ReplayedArrays:
    return [] if state.ids is None else [state.ids]


def moving_state(
    layer: "DecoderLayer",
    layout: EntryLayout,
    arrays: ReplayedArrays,
    position: int,
    moving: Moving,
) -> LayerState:
    """A state at `position` that has the arrays that `taken` gave, inside of a graph."""
    state = LayerState(layout, position=position, moving=moving, window=arrays[0])
    if layer.engram is not None:
        *arrays, state.ids = arrays
    if len(arrays) > 1:
        state.open_rows = arrays[1]
        window = moving.windows[layer.role.ratio]
        pools = [MovingEntries(buffer, window) for buffer in arrays[2:]]
        state.entries, state.keys = pools[0], pools[1] if len(pools) > 1 else None
    return state


def changed(state: LayerState, closes: bool) -> ReplayedArrays:
    """What a token changes of a layer: its rings, its buffers where a window closes, its last
    ids."""
    buffers = [pool.buffer() for pool in state.pools()] if closes else []
    return [*_rings(state), *buffers, *_ids(state)]


def put(state: LayerState, arrays: ReplayedArrays, *, closes: bool) -> None:
    """Let a state have the arrays that `changed` gave, a token later."""
    state.window = arrays[0]
    if state.ids is not None:
        *arrays, state.ids = arrays
    if state.open_rows is not None:
        state.open_rows = arrays[1]
    if closes:
        pools: tuple[Entries, ...] = state.pools()
        for pool, buffer in zip(pools, arrays[2:], strict=True):
            pool.put(buffer, 1)
    state.position += 1
