"""How a cache stores its rows, and which of these ways `--kv` chooses."""

from dataclasses import dataclass

import mlx.core as mx

from dsv4_mlx.errors import CacheError, UsageError
from metal_kernels.shared.formats import RowStorage, row_shape

Row = tuple[int, mx.Dtype]
"""Elements and dtype of one stored row."""


@dataclass(frozen=True)
class EntryLayout:
    """How rows are stored: `float32`, `bfloat16`, or `compact` as the release stores them.

    Kernels make and read the rows; `metal_kernels/shared/formats.py` defines them.
    """

    name: RowStorage

    def latent_row(self, width: int, rope_dims: int) -> Row:
        """One row of the window or of the compressed entries."""
        return row_shape(self.name, "latent", width, rope_dims)

    def key_row(self, width: int) -> Row:
        """One row of the index keys."""
        return row_shape(self.name, "key", width)


PLAIN, BF16, COMPACT = EntryLayout("float32"), EntryLayout("bfloat16"), EntryLayout("compact")
LAYOUTS: dict[str, EntryLayout] = {layout.name: layout for layout in (PLAIN, BF16, COMPACT)}
KV_CHOICES = {"compact": COMPACT, "bf16": BF16}


def layout_for(official: bool, kv: str | None = None) -> EntryLayout:
    """The layout of `--kv`; both choices hold the official rounding exactly, plain values neither.

    UsageError for a choice that there is not, or for plain numerics with any.
    """
    if kv is not None and kv not in KV_CHOICES:
        raise UsageError(f"kv is {kv!r}, expected {' or '.join(KV_CHOICES)}.")
    if official:
        return KV_CHOICES[kv or "compact"]
    if kv is not None:
        raise UsageError(
            f"kv is {kv!r}, but plain numerics round nothing and keep entries in float32; leave kv "
            "out or use the official numerics."
        )
    return PLAIN


def layout_named(name: str) -> EntryLayout:
    """The layout a cache file names; CacheError for one this version does not have."""
    if name not in LAYOUTS:
        raise CacheError(
            f"expected entries stored as {', '.join(LAYOUTS)} but found {name!r}; "
            "the file was written by another version, prefill the tokens again."
        )
    return LAYOUTS[name]
