"""docs/kernels.md, written from the kernels' declarations, and metal_kernels/ops.py beside it.

    make pages

A test compares what is committed with `page()` and with `kernel_protocol.module()`.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path

from benchmarks.kernel_protocol import MODULE, module
from metal_kernels import sources
from metal_kernels.contract import Kernel
from metal_kernels.registry import kernels

PAGE = Path(__file__).parent.parent / "docs" / "kernels.md"
HEAD = """\
# Kernels

Written by `make pages`; [add_a_kernel.md](add_a_kernel.md) says how to add one. A kernel is an op
of the model with a reference in plain MLX, which is the truth and what the CPU runs. `DSV4_BACKEND`
or `--backend` chooses between the implementations, once per model.

Letters are sizes: B rows of a batch, S tokens, M rows of tokens (B S), D hidden width, N streams,
H heads, K head width, T compressed entries, E experts, k choices.
"""


def page() -> str:
    """The whole page."""
    rows = [
        "| kernel | what it does | Metal | CUDA | cases |",
        "|---|---|---|---|---|",
        *(_row(kernel) for kernel in kernels().values()),
    ]
    return "\n".join([HEAD, *rows, "", *map(_section, kernels().values())])


def _row(kernel: Kernel) -> str:
    link = f"[{kernel.name}](#{kernel.name})"
    runs = (_text(kernel, backend) for backend in ("metal", "cuda"))
    return f"| {' | '.join([link, kernel.summary, *runs, str(len(kernel.cases))])} |"


def _text(kernel: Kernel, backend: str) -> str:
    """What a backend runs: a text of its own, Metal's, or the reference."""
    if backend not in kernel.launches:
        return "reference"
    if backend == "metal":
        return "text"
    own = any((sources.ROOT / kernel.name).glob("*.cu"))
    return "text of its own" if own else "Metal's text"


def _section(kernel: Kernel) -> str:
    parts = [
        f"## {kernel.name}",
        f"{kernel.summary[0].upper()}{kernel.summary[1:]}.",
        f"{_shapes(kernel.inputs)} → {_shapes(kernel.outputs)}",
    ]
    if launch := kernel.launches.get("metal"):
        parts.append(inspect.getdoc(launch) or "")
    parts.append(f"{_comparison(kernel)} Cases: {', '.join(case.id for case in kernel.cases)}.")
    return "\n\n".join(parts) + "\n"


def _shapes(arrays: Mapping[str, str]) -> str:
    return ", ".join(f"`{name} [{shape}]`" for name, shape in arrays.items())


def _comparison(kernel: Kernel) -> str:
    """The bound on the difference between a text and the reference."""
    bounds = [
        f"`{name}` lies on a grid of relative step {step:g} and may round the other way."
        for name, step in kernel.grids.items()
    ]
    if kernel.tolerance and set(kernel.outputs) > set(kernel.grids):
        bounds.append(f"Normalised squared error at most {kernel.tolerance:g}; integers are equal.")
    elif not kernel.grids:
        bounds.append("Equal.")
    return " ".join(bounds)


if __name__ == "__main__":
    for file, text in ((PAGE, page()), (MODULE, module())):
        file.write_text(text, encoding="utf-8")
        print(f"wrote {file}")
