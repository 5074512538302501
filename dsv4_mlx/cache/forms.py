"""What a timeline of one layer holds at a position: its arrays' names, shapes and dtypes."""

import mlx.core as mx

from dsv4_mlx.cache.layouts import EntryLayout
from dsv4_mlx.errors import CacheError
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_roles import LayerRole

Form = tuple[tuple[int, ...], mx.Dtype]
"""Shape and dtype of an array."""


def kept_rows(role: LayerRole) -> int:
    """Raw rows a layer keeps: the open window and, where windows overlap, the one before it."""
    return role.spanned * role.ratio


def raw_width(config: DeepseekV4Config, role: LayerRole) -> int:
    """Columns of a raw row: values and scores of the entry's channels and, if any, of the key's."""
    width = config.head_dim + (config.index_head_dim if role.selects else 0)
    return 2 * role.spanned * width


def state_forms(
    config: DeepseekV4Config, layout: EntryLayout, layer: int, position: int
) -> dict[str, Form]:
    """Shape and dtype of what a timeline of this layer holds after `position` tokens, by name.

    The names are those of `LayerState.arrays`; what is still empty is left out.
    """
    role = config.layer_roles[layer]
    latent = layout.latent_row(config.head_dim, config.qk_rope_head_dim)
    seen = int(position > 0)
    rows = {"window": (seen * config.sliding_window, latent)}
    if role.owns_entries:
        rows["open"] = (seen * kept_rows(role), (raw_width(config, role), mx.float32))
        rows["entries"] = (position // role.ratio, latent)
    if role.selects:
        rows["keys"] = (position // role.ratio, layout.key_row(config.index_head_dim))
    forms: dict[str, Form] = {
        name: ((1, n, width), dtype) for name, (n, (width, dtype)) in rows.items() if n
    }
    if seen and config.engram is not None and layer in config.engram.layer_ids:
        forms["ids"] = ((1, config.engram.kept_tokens), mx.int32)
    return forms


def check_state(
    config: DeepseekV4Config,
    layout: EntryLayout,
    layer: int,
    position: int,
    arrays: dict[str, mx.array],
) -> None:
    """CacheError unless arrays read from a file are what this layer holds at `position`."""
    expected = state_forms(config, layout, layer, position)
    for name in sorted({*expected, *arrays}):
        array = arrays.get(name)
        found = None if array is None else (array.shape, array.dtype)
        if found != expected.get(name):
            raise CacheError(
                f"expected {name} of layer {layer} as {expected.get(name)} but found {found}; "
                "the cache file does not belong to this model."
            )
