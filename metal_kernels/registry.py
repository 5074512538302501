"""All kernels by name, and the plan that says which implementation a model runs.

A kernel folder exports `KERNEL`. On the CPU every op is its reference. Metal and CUDA run the
launches that `Kernel.launches` declares, each behind a check of the contract; where a backend has
none yet, or a person leaves one out, the reference runs on it, and the plan says so.
"""

import importlib
import inspect
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache, wraps
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from metal_kernels.backend import Backend, MissingBackend, resolve
from metal_kernels.contract import Arrays, Call, Kernel, Launch
from metal_kernels.ops import Ops

NAMES = (
    "embed_streams",
    "engram_rows",
    "engram_gate",
    "dense_matvec",
    "packed_matvec",
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
    "expert_matmul",
    "expert_matvec",
    "swiglu",
    "expert_sum",
)

PRODUCTS = ("packed_matvec", "expert_matvec")
"""Products that a model leaves to MLX where no rows are exact; see `Ops`."""

ENVIRONMENT_VARIABLE = "DSV4_KERNELS"

# Looks of one op's calls that are remembered: a prompt and a context that grows go through many.
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
    left_out: tuple[str, ...] = ()
    """Kernels that have a launch there and run by their slower references, as somebody asked."""
    exact_rows: int = 1
    """See `Ops`."""

    @property
    def used(self) -> dict[str, str]:
        """What a model runs by: `chosen`, but `mlx` for products that it leaves to MLX."""
        theirs = () if self.exact_rows > 1 else PRODUCTS
        return {name: "mlx" if name in theirs else how for name, how in self.chosen.items()}

    def with_exact_rows(self, rows: int) -> "KernelPlan":
        """The same ops, which are told too; before anything was compiled that used them."""
        vars(self.ops)["exact_rows"] = rows
        return replace(self, exact_rows=rows)


class UnknownKernel(MissingBackend):
    """A kernel is to be left out that there is not."""


def plan(backend: str = "auto") -> KernelPlan:
    """Resolve the backend and bind every op to its implementation there.

    `metal,-index_topk` leaves a kernel to its reference, and so does the same in DSV4_KERNELS where
    `backend` leaves none out and names no other backend. MissingBackend for what is not there.
    """
    name, left_out = asked(backend)
    return bind(resolve(name), left_out)


def asked(backend: str) -> tuple[str, frozenset[str]]:
    """The backend and the kernels to leave out that `backend` and DSV4_KERNELS ask for."""
    name, left_out = words(backend)
    variable = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if left_out or not variable:
        return name, left_out
    other, left_out = words(variable)
    if name == "auto":
        return other, left_out
    return name, left_out if other in ("auto", name) else frozenset()


def words(text: str) -> tuple[str, frozenset[str]]:
    """Of `metal,-index_topk,-router` the backend, `auto` where none is named, and the kernels."""
    given = [word.strip() for word in text.split(",") if word.strip()]
    left_out = frozenset(word[1:] for word in given if word.startswith("-"))
    names = [word for word in given if not word.startswith("-")]
    if len(names) > 1:
        raise MissingBackend(
            f"expected one backend and kernels to leave out, as metal,-index_topk, but found "
            f"{text!r}; put a - before each kernel."
        )
    if unknown := sorted(left_out - set(NAMES)):
        raise UnknownKernel(
            f"expected kernels out of {', '.join(NAMES)} but found {unknown[0]!r}; correct "
            f"--kernels or {ENVIRONMENT_VARIABLE}."
        )
    return (names or ["auto"])[0], left_out


def bind(backend: Backend, left_out: Collection[str] = (), exact_rows: int = 1) -> KernelPlan:
    """The plan of a backend whether or not this machine has it: what tracing looks at."""
    ops: dict[str, Callable[..., Any]] = {}
    chosen: dict[str, str] = {}
    given_up = []
    for name, kernel in kernels().items():
        launch = kernel.launches.get(backend)
        if launch and name in left_out:
            given_up.append(name)
            launch = None
        ops[name] = _checked(kernel, launch, backend) if launch else kernel.reference
        chosen[name] = backend if launch else "reference"
    return KernelPlan(
        backend, as_ops(backend, ops, exact_rows), chosen, tuple(given_up), exact_rows
    )


def as_ops(backend: Backend, ops: Mapping[str, Callable[..., Any]], exact_rows: int = 1) -> Ops:
    """Ops by name as a plan has them; their type is written from the same declarations."""
    return cast(Ops, SimpleNamespace(backend=backend, exact_rows=exact_rows, **ops))


_LOOK = attrgetter("shape", "dtype")


class _Alike(NamedTuple):
    """What is remembered of calls that look alike: see `Call`."""

    complete: bool  # none of the inputs given is None
    options: Mapping[str, Any]
    sizes: Mapping[str, int]
    kept: dict[Any, Any]


def _checked(kernel: Kernel, launch: Launch, backend: Backend) -> Callable[..., Any]:
    """The op that takes the reference's arguments, checks them and launches.

    What Python does for a launch is time that a GPU waits. So a verdict is remembered for what it
    depends on, the shapes of the arrays, and beside it what the launch makes of shapes, dtypes and
    options.
    """
    signature = inspect.signature(kernel.reference)
    inputs, moving = tuple(kernel.inputs), kernel.moving
    most = len(inputs)
    optional = frozenset(n for n in inputs if signature.parameters[n].default is None)
    fewest = most - len(optional)
    remembered: dict[tuple[Any, ...], _Alike] = {}

    def in_order(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        options = dict(signature.bind(*given, **named).arguments)
        return tuple(options.pop(name, None) for name in inputs), options

    def looked_at(given: tuple[Any, ...], options: dict[str, Any], moved: dict[str, Any]) -> _Alike:
        signature.bind(*given, **options, **moved)
        if len(remembered) == _VERDICTS:
            remembered.clear()
        shapes = {n: a.shape for n, a in zip(inputs, given, strict=False) if a is not None}
        return _Alike(len(shapes) == len(given), options, kernel.check(shapes), {})

    @wraps(kernel.reference)
    def op(*given: Any, **options: Any) -> Any:
        count = len(given)
        if count != most and not (fewest <= count < most and optional.isdisjoint(options)):
            given, options = in_order(given, options)
        moved: dict[str, Any] = {}
        if moving and options:
            moved = {name: options.pop(name) for name in moving if name in options}
        try:
            look: tuple[Any, ...] = tuple(map(_LOOK, given))
        except AttributeError:
            look = tuple(None if array is None else _LOOK(array) for array in given)
        # 1, 1.0 and True are equal.
        key = (len(moved), *options.items(), *map(type, options.values()), *look)
        alike = remembered.get(key)
        if alike is None:
            alike = remembered[key] = looked_at(given, options, moved)
        arrays: Arrays = dict(zip(inputs, given, strict=False))
        if not alike.complete:
            arrays = {name: array for name, array in arrays.items() if array is not None}
        return launch(
            Call(kernel.name, backend, arrays, alike.options, alike.sizes, moved, alike.kept)
        )

    return op
