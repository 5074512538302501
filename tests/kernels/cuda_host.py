"""The CUDA texts on this CPU: a plan whose implementations run in tests.metalhost.

Everything of the CUDA path but NVIDIA's compiler and GPU: launch functions, the prelude, the marked
functions, inputs without dimensions, launches in whole blocks.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from metal_kernels import sources
from metal_kernels.registry import KernelPlan, bind
from tests.kernels.cuda_signature import building
from tests.kernels.runner_work import Counted
from tests.metalhost import checking, cuda_kernel

_LINE = re.compile(r"^\n#line .*\n", re.MULTILINE)


@contextmanager
def cuda_host_plan(mode: str = "checked", order: str | int = 0) -> Iterator[KernelPlan]:
    """The `cuda` plan, run by metalhost while the block lasts; as tests.kernels.host.host_plan."""
    with building(_built), checking(mode=mode, order=order):
        yield bind("cuda")


# Beside the cache of sources.built, which keeps what MLX built for a real GPU.
@cache
def _built(backend: str, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Any:
    # metalhost counts lines itself, as in Metal texts.
    header, body = (_LINE.sub("", part) for part in sources.text(backend, name))
    kernel = cuda_kernel(
        name=f"dsv4_{name}",
        input_names=list(inputs),
        output_names=list(outputs),
        header=header,
        source=sources.scalars(inputs) + body,
    )
    return Counted(kernel, sources.path(backend, name).parent.name)
