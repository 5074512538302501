"""Runs Metal kernels of `mx.fast.metal_kernel` on a Linux x86-64 CPU and checks every access.

    from tests.metalhost import checking, metal_kernel

`metal_kernel` takes what `mx.fast.metal_kernel` takes; the object it returns is called the same
way. Nothing here knows the project around it.
"""

from .cuda import CudaHostKernel, cuda_kernel
from .kernel import HostKernel, checking, metal_kernel
from .report import MetalHostError
from .toolchain import ToolchainError

__all__ = [
    "CudaHostKernel",
    "HostKernel",
    "MetalHostError",
    "ToolchainError",
    "checking",
    "cuda_kernel",
    "metal_kernel",
]
