"""What a kernel promises: named shapes, a reference, cases that tend to break it, a tolerance.

Test, benchmark, documentation row and error text all come from this one declaration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx


class ContractError(ValueError):
    """A kernel was called with shapes or dtypes outside its contract."""


@dataclass(frozen=True)
class Case:
    """One awkward input: a readable id and a function that makes the arguments from a seed."""

    id: str
    make: Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class Size:
    """A size worth timing, and the least work that any implementation does there.

    `flops` are those of its products and weighted sums, a multiply-add as two; 0 where elementwise
    work is all. `nbytes` is what must be read and written; None means every array once.
    """

    case: Case
    flops: int
    nbytes: int | None = None


@dataclass(frozen=True)
class Kernel:
    """One kernel: the op's name, its shapes in letters, its reference and its cases.

    `inputs` and `outputs` map argument names to shapes written in letters, `"B S N D"`; a letter
    has one size per call, a number is that number. `check` is for implementations that index
    memory; the references leave it to MLX's own shape errors. `tolerance` bounds the normalised
    mean squared error of any implementation against the reference; 0 means bit equality.
    `grids` names outputs that lie on a number grid, with the grid's relative step: there a sum in
    another order may round the other way, so a value may differ from the reference by one step.
    `sizes` are what benchmarks time.
    """

    name: str
    summary: str
    reference: Callable[..., Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    tolerance: float
    cases: tuple[Case, ...] = ()
    sizes: tuple[Size, ...] = ()
    grids: Mapping[str, float] = field(default_factory=dict)
    implementations: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def check(self, arguments: Mapping[str, Any]) -> dict[str, int]:
        """Sizes of the letters; raises ContractError where shapes disagree with the contract."""
        sizes: dict[str, int] = {}
        for name, shape in self.inputs.items():
            value = arguments.get(name)
            if value is not None:
                _bind(self.name, name, shape.split(), value, sizes)
        return sizes


def _bind(
    kernel: str, name: str, letters: list[str], value: mx.array, sizes: dict[str, int]
) -> None:
    if value.ndim != len(letters):
        raise ContractError(
            f"{kernel}: expected {name} as [{' '.join(letters)}] but found shape {value.shape}"
        )
    for letter, size in zip(letters, value.shape, strict=True):
        expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
        if size != expected:
            raise ContractError(
                f"{kernel}: expected {letter} = {expected} in {name} [{' '.join(letters)}] "
                f"but found shape {value.shape}"
            )


def on_gpus(fused: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Implementations by backend of a function that takes the backend's name first."""
    return {backend: partial(fused, backend) for backend in ("metal", "cuda")}


def random_normal(seed: int, *shape: int) -> mx.array:
    """Seeded float32 normals for cases."""
    return mx.random.normal(shape, key=mx.random.key(seed))
