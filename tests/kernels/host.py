"""The Metal texts on this CPU: a plan whose implementations run in tests.metalhost.

Everything between a model and the GPU is the shipped code: contract, launch function, geometry,
text. Only the object that MLX would build from a text is replaced.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from metal_kernels import sources
from metal_kernels.registry import KernelPlan, bind
from tests.metalhost import checking, metal_kernel


@contextmanager
def host_plan(mode: str = "checked", order: str | int = 0) -> Iterator[KernelPlan]:
    """The `metal` plan, run by metalhost while the block lasts.

    `mode` "checked" looks for races, bounds, uninitialised reads and missed barriers, "fast" does
    not. `order` is the order of threadgroups and threads: "ascending", "descending" or a seed.
    """
    own = sources.built
    sources.built = _built
    try:
        with checking(mode=mode, order=order):
            yield bind("metal")
    finally:
        sources.built = own


# Beside the cache of sources.built, which keeps what MLX built for a real GPU.
@cache
def _built(backend: str, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Any:
    header, body = sources.text(backend, name)
    return metal_kernel(
        name=f"dsv4_{name}",
        input_names=list(inputs),
        output_names=list(outputs),
        header=header,
        source=body,
    )
