"""All kernels by name, and the plan that says which implementation a model runs.

A kernel folder exports `KERNEL`. On the CPU every op is its reference. Metal and CUDA run the
launches that `Kernel.launches` declares, each behind a check of the contract; where a backend has
none yet the reference runs on it, and the plan says so.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from types import SimpleNamespace
from typing import Any, cast

from metal_kernels.backend import Backend, resolve
from metal_kernels.contract import Arrays, Call, Kernel, Launch
from metal_kernels.ops import Ops

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

# Shapes of one op that are remembered: a prompt and a context that grows go through many.
_VERDICTS = 1024


@cache
def kernels() -> dict[str, Kernel]:
    """Every kernel's declaration, by name."""
    return {name: importlib.import_module(f"metal_kernels.{name}").KERNEL for name in NAMES}


@dataclass(frozen=True)
class KernelPlan:
    """The implementations one model uses: `plan.ops.hc_pre(...)`, and their names for people."""

    backend: Backend
    ops: Ops
    chosen: dict[str, str]


def plan(backend: str = "auto") -> KernelPlan:
    """Resolve the backend and bind every op to its implementation there."""
    return bind(resolve(backend))


def bind(backend: Backend) -> KernelPlan:
    """The plan of a backend whether or not this machine has it: what tracing looks at."""
    ops: dict[str, Callable[..., Any]] = {}
    chosen: dict[str, str] = {}
    for name, kernel in kernels().items():
        launch = kernel.launches.get(backend)
        ops[name] = _checked(kernel, launch, backend) if launch else kernel.reference
        chosen[name] = backend if launch else "reference"
    return KernelPlan(backend, as_ops(backend, ops), chosen)


def as_ops(backend: Backend, ops: Mapping[str, Callable[..., Any]]) -> Ops:
    """Ops by name as a plan has them; their type is written from the same declarations."""
    return cast(Ops, SimpleNamespace(backend=backend, **ops))


def _checked(kernel: Kernel, launch: Launch, backend: Backend) -> Callable[..., Any]:
    """The op that takes the reference's arguments, checks them and launches.

    What Python does for a launch is time that a GPU waits. So a verdict is remembered for what it
    depends on: the names of the arguments and the shapes of the arrays.
    """
    signature = inspect.signature(kernel.reference)
    parameters, inputs = tuple(signature.parameters), tuple(kernel.inputs)
    verdicts: dict[tuple[Any, ...], dict[str, int]] = {}

    def verdict(given: tuple[Any, ...], named: tuple[str, ...], arrays: Arrays) -> dict[str, int]:
        signature.bind(*given, **dict.fromkeys(named))
        if len(verdicts) == _VERDICTS:
            verdicts.clear()
        return kernel.check({name: array.shape for name, array in arrays.items()})

    @wraps(kernel.reference)
    def op(*given: Any, **options: Any) -> Any:
        named = tuple(options)
        options.update(zip(parameters, given, strict=False))
        seen: list[Any] = [len(given), named]
        arrays: Arrays = {}
        for name in inputs:
            if (array := options.pop(name, None)) is not None:
                arrays[name] = array
                seen += name, array.shape
        key = tuple(seen)
        sizes = verdicts.get(key)
        if sizes is None:
            sizes = verdicts[key] = verdict(given, named, arrays)
        return launch(Call(kernel.name, backend, arrays, options, sizes))

    return op
