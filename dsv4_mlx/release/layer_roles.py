"""What a layer reads beside its window: the schedule of compressed entries as data.

A config.json gives every layer a compress ratio, and a DeepSeek-V4 ties everything else to that
number (paper §2.3): at 0 a layer sees its window alone; at 4 (CSA) it pools overlapping windows and
an indexer selects among them; at 128 (HCA) it pools windows that do not overlap and reads all of
them. This is the one place that knows the three numbers. Everywhere else a role is asked by name,
so that later models, whose layers read entries of a layer before them, are other rows of the same
table: a V4.1 reindexes (`selects` without `owns_entries`) or reuses (neither) what `source` owns.
"""

from dataclasses import dataclass

COMPRESS_RATIOS = (0, 4, 128)
"""Sliding window only, compressed sparse attention, heavily compressed attention."""


@dataclass(frozen=True)
class LayerRole:
    """The part of one layer in the schedule."""

    ratio: int
    """Tokens per entry that the layer reads; 0 where it reads none."""
    overlaps: bool
    """Whether an entry pools the tokens of the entry before it once more."""
    owns_entries: bool
    """Whether the layer pools entries of its own, so that it has a compressor and keeps them."""
    selects: bool
    """Whether the layer's own indexer selects entries for each query."""
    source: int | None
    """The layer whose entries are read; None where none are."""

    @property
    def spanned(self) -> int:
        """Windows of `ratio` tokens that one entry pools: 2 where entries overlap, else 1.

        A layer keeps `spanned * ratio` raw rows for its next entry, and each raw row has `spanned`
        channels for every channel of an entry.
        """
        return 2 if self.overlaps else 1


WINDOW_ONLY = LayerRole(0, overlaps=False, owns_entries=False, selects=False, source=None)
"""The role of a layer without entries, and of every prediction block."""


def layer_role(ratio: int, layer: int) -> LayerRole:
    """The role of DeepSeek-V4's layer number `layer` with a ratio of COMPRESS_RATIOS."""
    if not ratio:
        return WINDOW_ONLY
    sparse = ratio == 4
    return LayerRole(ratio, overlaps=sparse, owns_entries=True, selects=sparse, source=layer)
