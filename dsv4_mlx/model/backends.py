"""The kernels that a model runs, decided once: what `backend` means on this machine."""

import mlx.core as mx

from dsv4_mlx.errors import BackendError
from metal_kernels import registry
from metal_kernels.backend import MissingBackend
from metal_kernels.registry import KernelPlan


def kernel_plan(backend: str = "auto") -> KernelPlan:
    """The kernels of a backend; BackendError where this machine lacks it."""
    try:
        return registry.plan(backend)
    except MissingBackend as error:
        raise BackendError(str(error)) from error


def use_backend(backend: str = "auto") -> KernelPlan:
    """The kernels of a backend, on whose device MLX computes from now on; BackendError."""
    plan = kernel_plan(backend)
    mx.set_default_device(mx.cpu if plan.backend == "cpu" else mx.gpu)
    return plan
