"""All state that outlives a call: per layer the window, the open compression windows, the entries.

This module is what an engine calls a model's cache by; it hands on the names of its parts. `layer`
is the state of one layer, `snapshots` what one does with a whole model's, `deferred` how rows are
taken back, `side_by_side` how timelines share a call, `drafts` what a drafter knows of a timeline,
`layouts` how rows are stored, and `file` their file.
"""

from dsv4_mlx.cache.deferred import begin, commit, is_open
from dsv4_mlx.cache.drafts import DraftState, drafts_of, keep_drafts, new_cache
from dsv4_mlx.cache.file import load, save
from dsv4_mlx.cache.layer import LayerCache, for_one_call
from dsv4_mlx.cache.layouts import KV_CHOICES, layout_for
from dsv4_mlx.cache.pieces import CacheOutline, outline
from dsv4_mlx.cache.side_by_side import side_by_side, standing
from dsv4_mlx.cache.snapshots import (
    CacheBytes,
    Snapshot,
    compacted,
    evaluated,
    fork,
    mark,
    marked,
    nbytes,
    restore,
    sizes,
    snapshot,
)
from dsv4_mlx.cache.state import LayerState, new_state

__all__ = [
    "KV_CHOICES",
    "CacheBytes",
    "CacheOutline",
    "DraftState",
    "LayerCache",
    "LayerState",
    "Snapshot",
    "begin",
    "commit",
    "compacted",
    "drafts_of",
    "evaluated",
    "for_one_call",
    "fork",
    "is_open",
    "keep_drafts",
    "layout_for",
    "load",
    "mark",
    "marked",
    "nbytes",
    "new_cache",
    "new_state",
    "outline",
    "restore",
    "save",
    "side_by_side",
    "sizes",
    "snapshot",
    "standing",
]
