"""mHC in C: `hc_pre` and `hc_post` of training, each one call forward and one backward."""

from __future__ import annotations

import ctypes
from typing import Any, cast

import mlx.core as mx

from dsv4_mlx.training import native
from dsv4_mlx.training.native import address, empty, pointer

STREAMS = 4
"""The number of streams that the C is written for."""
_MIXES = (2 + STREAMS) * STREAMS
_Given = native.structure("_Given", ctypes.c_void_p, ("streams", "fn", "base", "scale", "norm"))
_Kept = native.structure("_Kept", ctypes.c_void_p, ("raw", "inverse", "collapse", "rms"))


class _Sizes(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("tokens", "width", "iterations")),
        *((name, ctypes.c_float) for name in ("hc_eps", "norm_eps")),
    ]


def pre(
    library: ctypes.CDLL, given: tuple[mx.array, ...], *, iters: int, hc_eps: float, norm_eps: float
) -> tuple[mx.array, mx.array, mx.array]:
    """As `hc_pre`: streams, fn, base, scale, norm weight -> normed, post, comb."""
    B, S, N, D = given[0].shape
    sizes = _Sizes(B * S, D, iters, hc_eps, norm_eps)
    kept: list[mx.array] = []

    def common(given: list[mx.array]) -> list[Any]:
        pointers = _Given(*map(address, given)), _Kept(*map(address, kept))
        return [ctypes.byref(one) for one in (sizes, *pointers)]

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(*given: mx.array) -> list[mx.array]:
        given_now = native.evaluated(given)
        kept[:] = empty(B * S, _MIXES), empty(B * S), empty(B * S, N), empty(B * S)
        found = [empty(B, S, D), empty(B, S, N), empty(B, S, N, N)]
        library.streams_pre(*common(given_now), *map(pointer, found))
        return found

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangents: Any, _: Any) -> list[mx.array]:
        now = native.evaluated([*given, *cotangents])
        found = [empty(*one.shape) for one in given]
        pointers = [*map(pointer, now[5:]), native.addresses(found)]
        library.streams_pre_back(*common(now[:5]), *pointers)
        return found

    normed, post, comb = cast(list[mx.array], core(*given))
    return normed, post, comb


def post(library: ctypes.CDLL, *given: mx.array) -> mx.array:
    """As `hc_post`: y, streams, post, comb and perhaps what experts gave -> streams."""
    B, S, _, D = given[1].shape
    parts = given[4].shape[2] if len(given) > 4 else 0

    def arguments(given: list[mx.array]) -> list[Any]:
        pointers = [pointer(one) for one in given[:4]]
        return [B * S, D, parts, *pointers, pointer(given[4] if parts else None)]

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(*given: mx.array) -> mx.array:
        now, mixed = native.evaluated(given), empty(*given[1].shape)
        library.streams_post(*arguments(now), pointer(mixed))
        return mixed

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangent: mx.array, _: Any) -> list[mx.array]:
        *now, d = native.evaluated([*given, cotangent])
        found = [empty(*one.shape) for one in given[:4]]
        library.streams_post_back(*arguments(now), pointer(d), *map(pointer, found))
        routed = [mx.broadcast_to(found[0][:, :, None], one.shape) for one in given[4:]]
        return [*found, *routed]

    return cast(mx.array, core(*given))
