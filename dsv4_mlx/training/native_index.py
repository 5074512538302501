"""The lightning indexer's scores, choice and loss in C (`native/index.c`); see `index_scores`."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

from dsv4_mlx.training import native
from dsv4_mlx.training.native import address, empty, pointer

_GIVEN = ("residual", "query", "weights", "keys", "cosine", "sine")
_Given = native.structure("_Given", ctypes.c_void_p, _GIVEN)
_SIZES = ("heads", "batch", "length", "entries", "latent", "width", "rope", "ratio")
_Sizes = native.structure("_Sizes", ctypes.c_int, _SIZES)


@dataclass(frozen=True)
class IndexQueries:
    """What queries are made of: residual [B, S, L], matrix [H K, L], cosines and sines [S, R / 2].

    The residual is a constant to the indexer.
    """

    residual: mx.array
    matrix: mx.array
    cos: mx.array
    sin: mx.array


def scores(
    library: ctypes.CDLL, queries: IndexQueries, weights: mx.array, keys: mx.array, ratio: int
) -> mx.array:
    """As `index_scores` of the rotated queries: weights [B, S, H], keys [B, T, K] -> [B, S, T]."""
    B, S, L = queries.residual.shape
    T, K = keys.shape[1:]
    sizes = _Sizes(weights.shape[-1], B, S, T, L, K, 2 * queries.cos.shape[-1], ratio)
    residual, cos, sin = native.evaluated([queries.residual, queries.cos, queries.sin])

    def common(given: list[mx.array]) -> list[Any]:
        pointers = _Given(*map(address, (residual, *given, cos, sin)))
        return [ctypes.byref(sizes), ctypes.byref(pointers)]

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(*given: mx.array) -> mx.array:
        now, found = native.evaluated(given), empty(B, S, T)
        library.index_forward(*common(now), pointer(found))
        return found

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangent: mx.array, _: Any) -> list[mx.array]:
        *now, d = native.evaluated([*given, cotangent])
        found = [empty(*one.shape) for one in given]
        library.index_backward(*common(now), pointer(d), *map(pointer, found))
        return found

    return cast(mx.array, core(queries.matrix, weights, keys))


def chosen_entries(library: ctypes.CDLL, scores: mx.array, k: int) -> mx.array:
    """As `index_scores.chosen_entries`."""
    (now,) = native.evaluated([mx.stop_gradient(scores)])
    found = empty(*now.shape, dtype=mx.bool_)
    T = now.shape[-1]
    library.index_choose(now.size // T, T, k, pointer(now), pointer(found))
    return found


def index_loss(library: ctypes.CDLL, scores: mx.array, mass: mx.array, among: mx.array) -> mx.array:
    """As `index_scores.index_loss`; its cotangents are made on the way there."""
    kept: list[mx.array] = []

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(scores: mx.array) -> mx.array:
        now = native.evaluated([scores, mass, mx.broadcast_to(among, scores.shape)])
        kept[:], loss, T = [empty(*scores.shape)], empty(1), scores.shape[-1]
        library.index_loss(scores.size // T, T, *map(pointer, (*now, kept[0], loss)))
        return loss[0]

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(_given: Any, cotangent: mx.array, _: Any) -> mx.array:
        return kept[0] * cotangent

    return cast(mx.array, core(scores))
