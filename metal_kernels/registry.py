"""All kernels by name, and the plan that says which implementation a model runs.

A kernel folder exports `KERNEL`. On the CPU every op is its reference. Metal and CUDA
implementations are declared in `Kernel.implementations`; where a backend has none yet the reference
runs on it, and the plan says so.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from metal_kernels.backend import Backend, resolve
from metal_kernels.contract import Kernel

NAMES = (
    "embed_streams",
    "dense_matvec",
    "hc_pre",
    "hc_post",
    "hc_post_pre",
    "hc_head",
    "qkv_prepare",
    "q_prepare",
    "compress",
    "index_topk",
    "sparse_attention",
    "router",
    "hash_router",
    "swiglu",
    "expert_sum",
)


@cache
def kernels() -> dict[str, Kernel]:
    """Every kernel's declaration, by name."""
    return {name: importlib.import_module(f"metal_kernels.{name}").KERNEL for name in NAMES}


@dataclass(frozen=True)
class KernelPlan:
    """The implementations one model uses: `plan.ops.hc_pre(...)`, and their names for people."""

    backend: Backend
    ops: SimpleNamespace
    chosen: dict[str, str]


def plan(backend: str = "auto") -> KernelPlan:
    """Resolve the backend and bind every op to its implementation there."""
    return bind(resolve(backend))


def bind(backend: Backend) -> KernelPlan:
    """The plan of a backend whether or not this machine has it: what tracing looks at."""
    ops: dict[str, Callable[..., Any]] = {}
    chosen: dict[str, str] = {}
    for name, kernel in kernels().items():
        implementation = kernel.implementations.get(backend)
        ops[name] = implementation or kernel.reference
        chosen[name] = backend if implementation else "reference"
    return KernelPlan(backend, SimpleNamespace(backend=backend, **ops), chosen)
