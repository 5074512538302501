"""The state of a timeline in some of a model's layers, as arrays by name and back.

Names are those of cache files: `LAYER.NAME`, and `place.OFFSET.LAYER.NAME` for the rings of places,
with the layers' numbers in the model.
"""

import math
from collections.abc import Mapping, Sequence

import mlx.core as mx

from dsv4_mlx.cache.forms import state_forms
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.layouts import EntryLayout
from dsv4_mlx.cache.snapshots import Snapshot, snapshot_at
from dsv4_mlx.cache.state import new_state
from dsv4_mlx.release.config import DeepseekV4Config

StateArrays = dict[str, mx.array]
_FIXED = ("window", "open", "ids")


def arrays_of(cache: Sequence[LayerCache], own: range) -> StateArrays:
    """What a single timeline holds in the layers `own`."""
    return {
        f"{number}.{name}": array
        for number, layer in zip(own, cache, strict=True)
        for name, array in layer.rows[0].arrays().items()
    }


def rings_of(place: Snapshot, own: range) -> StateArrays:
    """The state of fixed size that a place of it holds there."""
    return {
        f"place.{place.offset}.{number}.{name}": array
        for number, (row,) in zip(own, place.layers, strict=True)
        for name, array in row.arrays().items()
        if name in _FIXED
    }


def filled(
    cache: Sequence[LayerCache], own: range, position: int, arrays: Mapping[str, mx.array]
) -> None:
    """Put a timeline of `position` tokens into the empty `cache` of the layers `own`."""
    for number, layer in zip(own, cache, strict=True):
        layer.rows = [new_state(layer.role, layer.layout)]
        layer.rows[0].fill(position, _taken(f"{number}.", arrays))


def place_of(
    cache: Sequence[LayerCache], own: range, offset: int, arrays: Mapping[str, mx.array]
) -> Snapshot:
    """The place after `offset` tokens of the timeline in `cache`."""
    rings = [_taken(f"place.{offset}.{number}.", arrays) for number in own]
    return snapshot_at(cache, offset, rings)


def fixed_bytes(config: DeepseekV4Config, layout: EntryLayout, layers: range) -> int:
    """Bytes of the state of fixed size of a timeline in `layers`: what a snapshot costs there."""
    return sum(
        dtype.size * math.prod(shape)
        for number in layers
        for name, (shape, dtype) in state_forms(config, layout, number, 1).items()
        if name in _FIXED
    )


def _taken(beginning: str, arrays: Mapping[str, mx.array]) -> StateArrays:
    return {
        name.removeprefix(beginning): array
        for name, array in arrays.items()
        if name.startswith(beginning)
    }
