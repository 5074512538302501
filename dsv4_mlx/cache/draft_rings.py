"""A drafter's own window rings as arrays by name, and back: what a `DraftState` of them holds."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.release.config import DeepseekV4Config

_POSITION = "position"


def arrays_of(cache: Sequence[LayerCache]) -> dict[str, mx.array]:
    """`N.window` of every layer N and the rows it has seen, `position` int32 [1]; no copies."""
    held = {f"{n}.window": layer.rows[0].window for n, layer in enumerate(cache)}
    found = {name: array for name, array in held.items() if array is not None}
    return found | {_POSITION: mx.array([cache[0].offset], mx.int32)}


def fill(
    cache: Sequence[LayerCache], config: DeepseekV4Config, arrays: Mapping[str, mx.array]
) -> bool:
    """Stand where `arrays_of` was asked; False, and nothing changed, where they are of others."""
    position = arrays.get(_POSITION)
    if position is None or (position.shape, position.dtype) != ((1,), mx.int32):
        return False
    seen: Any = position.item()
    for number, layer in enumerate(cache):
        width, dtype = layer.layout.latent_row(config.head_dim, config.qk_rope_head_dim)
        window = arrays.get(f"{number}.window")
        form = ((1, config.sliding_window, width), dtype)
        if seen < 1 or window is None or (window.shape, window.dtype) != form:
            return False
    for number, layer in enumerate(cache):
        layer.rows[0].fill(seen, {"window": arrays[f"{number}.window"]})
    return True
