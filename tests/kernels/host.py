"""The Metal texts on this CPU: a plan whose implementations run in tests.metalhost.

Everything between a model and the GPU is the shipped code: contract, launch function, geometry,
text. Only the object that MLX would build from a text is replaced.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from math import prod
from typing import Any, NamedTuple

from metal_kernels import sources
from metal_kernels.contract import Kernel
from metal_kernels.registry import KernelPlan, bind
from tests.kernels.compare import assert_matches
from tests.kernels.runner_work import Counted
from tests.metalhost import checking, metal_kernel
from tests.metalhost.launch import Counts


@contextmanager
def host_plan(
    mode: str = "checked",
    order: str | int = 0,
    *,
    flushed: bool = False,
    fused: bool = False,
    qualities: bool = True,
    exact_rows: int = 1,
) -> Iterator[KernelPlan]:
    """The `metal` plan, run by metalhost while the block lasts.

    `mode` "checked" looks for races, bounds, uninitialised reads and missed barriers, "fast" does
    not. `order` is the order of threadgroups and threads: "ascending", "descending" or a seed.
    Metal may flush subnormals and fuse products with sums; here both happen on demand.

    With `qualities` a text has to name those of its functions: MLX 0.32.4 asks Metal for safe
    arithmetic but not for precise functions, so from macOS 15 on a bare log is good to 2^-21 near
    1 and no better, and a bare max with NaN is anything.
    """
    own = sources.built
    sources.built = _built
    try:
        with checking(mode, order, flushed=flushed, fused=fused, qualities=qualities):
            yield bind("metal", exact_rows=exact_rows)
    finally:
        sources.built = own


def assert_text_matches(
    kernel: Kernel,
    arguments: Mapping[str, Any],
    case: str,
    order: str | int = 0,
    mode: str = "checked",
    **arithmetic: bool,
) -> None:
    """Run a kernel's texts, in checked mode if not told otherwise; compare with its reference."""
    with host_plan(mode, order, **arithmetic) as plan:
        found = getattr(plan.ops, kernel.name)(**arguments)
    expected = kernel.reference(**arguments)
    assert_matches(kernel, found, expected, case=case, arguments=arguments)


class Launched(NamedTuple):
    """One launch of a text: its threads per threadgroup and its work."""

    text: str
    threads: int
    counts: Counts


@contextmanager
def launched() -> Iterator[list[Launched]]:
    """The launches of host plans inside the block, in order."""
    _LAUNCHED.append([])
    try:
        yield _LAUNCHED[-1]
    finally:
        _LAUNCHED.pop()


_LAUNCHED: list[list[Launched]] = []


def _recorded(text: str, kernel: Counted) -> Callable[..., list[Any]]:
    def launch(**call: Any) -> list[Any]:
        outputs = kernel(**call)
        assert kernel.kernel.counts is not None
        for launches in _LAUNCHED:
            launches.append(Launched(text, prod(call["threadgroup"]), kernel.kernel.counts))
        return outputs

    return launch


# Beside the cache of sources.built, which keeps what MLX built for a real GPU.
@cache
def _built(backend: str, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Any:
    header, body = sources.text(backend, name)
    kernel = metal_kernel(
        name=f"dsv4_{name}",
        input_names=list(inputs),
        output_names=list(outputs),
        header=header,
        source=body,
    )
    return _recorded(name, Counted(kernel, sources.path(backend, name).parent.name))
