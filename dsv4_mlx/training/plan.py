"""The ops of a model that is trained: references, and forms of them that a gradient is cheap of.

Kernels have no gradient. A model that is trained runs every op by its reference, on whichever
backend, or by a form of it written here; `kernel_plan()` of the model says which: `reference` or
`training`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from dsv4_mlx.errors import BackendError
from dsv4_mlx.model.backends import use_backend
from dsv4_mlx.training import native, native_rows, native_streams
from metal_kernels import registry
from metal_kernels.hc_pre.reference import mix_streams, split_mix
from metal_kernels.swiglu import reference

_DIFFERENTIABLE = ("reference", "training", "mlx")


def training_plan(backend: str = "cpu") -> registry.KernelPlan:
    """A plan on `backend` whose every op has a gradient; BackendError where it is not there."""
    name = use_backend(backend).backend
    forms: dict[str, Callable[..., Any]] = {
        "hc_pre": hc_pre,
        "hc_post": hc_post,
        "hc_post_pre": hc_post_pre,
        "swiglu": swiglu,
    }
    ops: dict[str, Callable[..., Any]] = {
        kernel: one.reference for kernel, one in registry.kernels().items()
    }
    chosen = {kernel: "training" if kernel in forms else "reference" for kernel in ops}
    return registry.KernelPlan(name, registry.as_ops(name, ops | forms), chosen)


def require_gradients(kernel_plan: Mapping[str, str]) -> None:
    """BackendError for a model, by its `kernel_plan()`, some op of which has no gradient."""
    kernels = [name for name, how in kernel_plan.items() if name not in ("backend", "experts")]
    without = [name for name in kernels if kernel_plan[name] not in _DIFFERENTIABLE]
    if without:
        raise BackendError(
            f"expected ops that have a gradient but found kernels of {kernel_plan['backend']} for "
            f"{', '.join(without)}; build the model that is trained with plan=training_plan()."
        )


def _library(streams: mx.array) -> ctypes.CDLL | None:
    """The functions in C, for streams they are written for."""
    return native.on_cpu() if streams.shape[2] == native_streams.STREAMS else None


def hc_post(*given: Any, official: bool) -> mx.array:
    """`hc_post` as one small product per token: its gradients are products too."""
    assert not official, "training rounds nothing"
    library = _library(given[1])
    if library is not None:
        return native_streams.post(library, *(one for one in given if one is not None))
    y, streams, post, comb, routed = (*given, None)[:5]
    if routed is not None:
        y = routed.sum(axis=2) + y
    mixed: mx.array = comb.swapaxes(-1, -2) @ streams + post[..., None] @ y[:, :, None, :]
    return mixed


def hc_pre(
    streams: mx.array, *of_layer: mx.array, official: bool, **options: Any
) -> tuple[mx.array, mx.array, mx.array]:
    """`hc_pre` whose collapse is one small product per token."""
    assert not official, "training rounds nothing"
    library = _library(streams)
    if library is not None:
        return native_streams.pre(library, (streams, *of_layer), **options)
    fn, base, scale, norm_weight = of_layer
    B, S, N, _ = streams.shape
    iters, eps = options["iters"], options["norm_eps"]
    raw = mix_streams(streams, fn, eps)
    pre, post, comb = split_mix(raw, scale, base, streams=N, iters=iters, eps=options["hc_eps"])
    normed = mx.fast.rms_norm((pre.T.reshape(B, S, 1, N) @ streams)[:, :, 0], norm_weight, eps)
    mixing = comb.reshape(N * N, -1).T.reshape(B, S, N, N)
    return normed, post.T.reshape(B, S, N), mixing


def hc_post_pre(*given: mx.array, official: bool, **options: Any) -> tuple[mx.array, ...]:
    """`hc_pre` of `hc_post`."""
    mixed = hc_post(*given[:4], official=official)
    return mixed, *hc_pre(mixed, *given[4:], official=official, **options)


def swiglu(
    gate_up: mx.array, *more: mx.array | None, limit: float
) -> mx.array | tuple[mx.array, mx.array]:
    """`swiglu`, its sigmoids made again in the backward pass."""
    weights, shared = (*more, None, None)[:2]
    library = native.on_cpu()
    if library is None:
        return reference.swiglu(gate_up, weights, shared, limit=limit)
    activated = native_rows.swiglu(library, gate_up, weights, limit)
    if shared is None:
        return activated
    return activated, native_rows.swiglu(library, shared, None, limit)
