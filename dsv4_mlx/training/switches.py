"""Parts of attention switched off on a loaded model, to see what an ability goes through.

A switched model is no model that anybody would run: nothing was trained without the part. What is
shown is only that the answers need it. Everything is as before when the `with` block ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import mlx.core as mx

from dsv4_mlx.errors import UsageError
from dsv4_mlx.model.v4 import Model
from metal_kernels.ops import Ops

SwitchablePart = Literal["window", "csa", "hca", "selection"]

EXPLAINED: Mapping[SwitchablePart, str] = {
    "window": "every query sees itself instead of the last 128 tokens",
    "csa": "layers whose entries are selected see their window alone",
    "hca": "layers that see all their entries see their window alone",
    "selection": "the newest entries are taken instead of the best",
}


@contextmanager
def without(model: Model, part: SwitchablePart | None) -> Iterator[None]:
    """The model without one part of its attention, or as it is with None.

    A model whose steps are built once and replayed must not be in use. UsageError for a part that
    there is none of.
    """
    if part is not None and part not in get_args(SwitchablePart):
        raise UsageError(
            f"A part that can be switched off is one of {', '.join(EXPLAINED)}, got {part!r}; "
            "choose from these."
        )
    changed = [] if part is None else list(_changed(model, part))
    for owner, ops in changed:
        owner._ops = ops
    try:
        yield
    finally:
        for owner, ops in changed:
            owner._ops = ops.whole


def _changed(model: Model, part: SwitchablePart) -> Iterator[tuple[Any, _Altered]]:
    """What calls an op that has to be another one, with these ops."""
    for layer in model.layers:
        attention = layer.self_attn
        indexer = None if attention.compressor is None else attention.compressor.indexer
        if part == "selection":
            if indexer is not None:
                yield indexer, _NewestEntries(indexer._ops)
        elif part == "window":
            yield attention, _OwnTokenAlone(attention._ops)
        elif attention.compressor is not None and (indexer is not None) == (part == "csa"):
            yield attention, _NoEntries(attention._ops)


class _Altered:
    """The ops of a plan, one of them another."""

    def __init__(self, whole: Ops) -> None:
        self.whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


class _OwnTokenAlone(_Altered):
    def sparse_attention(self, *arrays: Any, **options: Any) -> mx.array:
        return self.whole.sparse_attention(*arrays, **{**options, "sliding_window": 1})


class _NoEntries(_Altered):
    def sparse_attention(self, *arrays: Any, **options: Any) -> mx.array:
        q, window, sinks, cos, sin, _, _ = arrays
        return self.whole.sparse_attention(q, window, sinks, cos, sin, None, None, **options)


class _NewestEntries(_Altered):
    def index_topk(self, *arrays: Any, **options: Any) -> mx.array:
        """As many entries as would be selected, [B, S, min(k, T)] int32, whatever they hold."""
        index_q, _, keys = arrays
        first_position, ratio = options["first_position"], options["ratio"]
        B, S = index_q.shape[:2]
        count = min(options["k"], keys.shape[1])
        visible = (mx.arange(S) + first_position + 1) // ratio
        last = mx.minimum(visible, keys.shape[1])[:, None]
        places = mx.where(last >= count, last - count, 0) + mx.arange(count)
        chosen = mx.where(places < last, places, -1).astype(mx.int32)
        return mx.broadcast_to(chosen, (B, S, count))
