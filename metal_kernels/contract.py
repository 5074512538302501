"""What a kernel promises: named shapes, a reference, cases that tend to break it, a tolerance.

Test, benchmark, documentation row and error text all come from this one declaration.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import mlx.core as mx


class ContractError(ValueError):
    """A kernel was called with arrays whose shapes are outside its contract."""


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


Arrays = dict[str, mx.array]


Made = TypeVar("Made")


class Call(NamedTuple):
    """A call that keeps its kernel's contract: what a launch is given.

    `arrays` are the contract's inputs that were given, in its order, `sizes` those of the
    contract's letters, `options` the reference's other arguments but for those that the kernel
    declares to be `moving`. Calls that look alike in all but the arrays' numbers and the moving
    options share `kept`.
    """

    kernel: str
    backend: str
    arrays: Arrays
    options: Mapping[str, Any]
    sizes: Mapping[str, int]
    moving: Mapping[str, Any]
    kept: dict[Any, Any]

    def keep(self, make: Callable[["Call"], Made]) -> Made:
        """What `make` gives of this call without its moving options: made once for those alike.

        `make` looks at shapes, dtypes, sizes and options, never at numbers of arrays.
        """
        made: Made | None = self.kept.get(make)
        if made is None:
            made = self.kept[make] = make(self._replace(moving={}))
        return made


Launch = Callable[[Call], Any]


@dataclass(frozen=True)
class Kernel:
    """One kernel: the op's name, its shapes in letters, its reference and its cases.

    `inputs` and `outputs` map argument names to shapes written in letters, `"B S N D"`; a letter
    has one size per call, a number is that number. The registry checks them before a launch, which
    indexes memory; the references leave it to MLX's own shape errors. `tolerance` bounds the
    normalised mean squared error of any launch against the reference; 0 means bit equality.
    `grids` names outputs that lie on a number grid, with the grid's relative step: there a sum in
    another order may round the other way, so a value may differ from the reference by one step.
    `sizes` are what benchmarks time, `launches` the implementations by backend. `moving` names the
    arguments that differ from token to token and decide no geometry: numbers, or 0-d arrays.
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
    launches: Mapping[str, Launch] = field(default_factory=dict)
    moving: tuple[str, ...] = ()

    def check(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Sizes of the letters; raises ContractError where shapes disagree with the contract."""
        sizes: dict[str, int] = {}
        for name, shape in shapes.items():
            self._bind(name, self.inputs[name].split(), shape, sizes)
        return sizes

    def _bind(
        self, name: str, letters: list[str], shape: Sequence[int], sizes: dict[str, int]
    ) -> None:
        """Enter an input's sizes into `sizes`, where they have to agree with those before."""
        if len(shape) != len(letters):
            raise ContractError(
                f"{self.name}: expected {name} as [{' '.join(letters)}] but found shape {shape}."
            )
        for letter, size in zip(letters, shape, strict=True):
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != expected:
                raise ContractError(
                    f"{self.name}: expected {letter} = {expected} in {name} "
                    f"[{' '.join(letters)}] but found shape {shape}."
                )


def on_gpus(launch: Launch) -> dict[str, Launch]:
    """A launch that serves both backends, whose name its calls carry."""
    return dict.fromkeys(("metal", "cuda"), launch)


def random_normal(seed: int, *shape: int) -> mx.array:
    """Seeded float32 normals for cases."""
    return mx.random.normal(shape, key=mx.random.key(seed))
