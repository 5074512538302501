"""Row-wise parts of a step in C (`native/rows.c`), each one call forward and one backward."""

from __future__ import annotations

import ctypes
from typing import Any, cast

import mlx.core as mx

from dsv4_mlx.training import native
from dsv4_mlx.training.native import empty, pointer
from dsv4_mlx.training.packing import rows_of


def normed(
    library: ctypes.CDLL,
    x: mx.array,
    weight: mx.array,
    eps: float,
    rotary: tuple[mx.array, mx.array] | None = None,
) -> mx.array:
    """RMS norm of rows [B, S, D], then `rotate` by rotary [S, R / 2] where given."""
    *batch, S, D = x.shape
    angles = native.evaluated(rotary) if rotary else []
    rows, half = x.size // D, angles[0].shape[-1] if angles else 0
    turns = [pointer(one) for one in angles] if angles else [pointer(None)] * 2
    kept: list[mx.array] = []

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(*given: mx.array) -> mx.array:
        now, found, kept[:] = native.evaluated(given), empty(*batch, S, D), [empty(rows)]
        pointers = [*map(pointer, now), *turns, pointer(found), pointer(kept[0])]
        library.rows_norm(rows, S, D, half, ctypes.c_float(eps), *pointers)
        assert angles or not half
        return found

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangent: mx.array, _: Any) -> list[mx.array]:
        *now, d = native.evaluated([*given, cotangent])
        found = [empty(*one.shape) for one in given]
        pointers = [*map(pointer, now), *turns, *map(pointer, (kept[0], d, *found))]
        library.rows_norm_back(rows, S, D, half, *pointers)
        assert angles or not half
        return found

    return cast(mx.array, core(x, weight))


class _Pool(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("tokens", "entries", "period", "ratio")),
        *((name, ctypes.c_int) for name in ("width", "half", "overlaps")),
        ("eps", ctypes.c_float),
    ]


def compressed(
    library: ctypes.CDLL,
    given: tuple[mx.array, mx.array, mx.array, mx.array],
    rotary: tuple[mx.array, mx.array],
    eps: float,
    places: mx.array | None = None,
) -> mx.array:
    """As `compress` of all windows, unrounded: [B, T, d].

    given: values [B, S, c], gates [B, S, c], bias [R, c], norm weight [d]; rotary [T, P]. `places`
    int32 [B T, R or 2 R] are the tokens of each entry among the B S, by default those of rows.
    """
    B, S, c = given[0].shape
    ratio, d = given[2].shape[0], given[3].size
    if places is None:
        places = rows_of(B, S).entries(ratio, overlaps=c == 2 * d).places
    T = len(places) // B
    at, *angles = native.evaluated([places, *rotary])
    sizes = _Pool(B * S, B * T, T, ratio, d, angles[0].shape[-1], c == 2 * d, eps)
    kept: list[mx.array] = []

    def common(now: list[mx.array]) -> list[Any]:
        return [ctypes.byref(sizes), *map(pointer, (at, *now, *angles))]

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(*given: mx.array) -> mx.array:
        now, found = native.evaluated(given), empty(B, T, d)
        kept[:] = [*(empty(B * T, d) for _ in range(3)), empty(B * T)]
        library.rows_pool(*common(now), pointer(found), native.addresses(kept))
        return found

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangent: mx.array, _: Any) -> list[mx.array]:
        *now, d = native.evaluated([*given, cotangent])
        found = [empty(*one.shape) for one in given]
        pointers = native.addresses(kept), pointer(d), native.addresses(found)
        library.rows_pool_back(*common(now), *pointers)
        return found

    return cast(mx.array, core(*given))


def swiglu(
    library: ctypes.CDLL, gate_up: mx.array, weights: mx.array | None, limit: float
) -> mx.array:
    """Clamped SwiGLU [R, 2 I] -> [R, I], times weights [R] where given; `limit` 0 is none."""
    rows, width = gate_up.shape[0], gate_up.shape[-1] // 2
    sizes = rows, width, ctypes.c_float(limit or float("inf"))

    def weights_of(now: list[mx.array]) -> mx.array | None:
        return now[1] if weights is not None else None

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(*given: mx.array) -> mx.array:
        now, found = native.evaluated(given), empty(rows, width)
        library.rows_swiglu(*sizes, *map(pointer, (now[0], weights_of(now), found)))
        return found

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangent: mx.array, _: Any) -> list[mx.array]:
        # One array given comes as it is, several as a list.
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        *now, d = native.evaluated([*given, cotangent])
        found = [empty(*one.shape) for one in given]
        arrays = now[0], weights_of(now), d, found[0], weights_of(found)
        library.rows_swiglu_back(*sizes, *map(pointer, arrays))
        return found

    return cast(mx.array, core(gate_up) if weights is None else core(gate_up, weights))


def cross_entropy(
    library: ctypes.CDLL, logits: mx.array, targets: mx.array, weights: mx.array
) -> mx.array:
    """As `losses.cross_entropy`; logits [B, S, V]."""
    V = logits.shape[-1]
    ids, worth = native.evaluated([targets.astype(mx.int32), weights.astype(mx.float32)])
    rows, total = ids.size, mx.maximum(worth.sum(), 1.0)
    kept: list[mx.array] = []

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(logits: mx.array) -> mx.array:
        (now,), found, kept[:] = native.evaluated([logits]), empty(1), [empty(rows)]
        library.rows_cross_entropy(rows, V, *map(pointer, (now, ids, worth, kept[0], found)))
        return found[0] / total

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: mx.array, cotangent: mx.array, _: Any) -> mx.array:
        now, factor = native.evaluated([given, cotangent / total])
        found = empty(*given.shape)
        arrays = now, ids, worth, kept[0], factor, found
        library.rows_cross_entropy_back(rows, V, *map(pointer, arrays))
        return found

    return cast(mx.array, core(logits))
