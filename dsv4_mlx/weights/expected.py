"""What a config says of each parameter: which tensors of a release fill it, and what was found."""

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Any

from dsv4_mlx.files.safetensors_dtypes import Shape
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.tensors import TensorSpec
from dsv4_mlx.weights.forms import Accepted, DenseForm, WeightForm

Slot = tuple[int | None, int]
"""Which part of a parameter a tensor fills: expert and half; (None, 0) is the whole."""


@cache
def one_object(value: tuple[Any, ...]) -> Any:
    """`value`, and the same object for each equal one: tensors are many, shapes and slots few."""
    return value


@dataclass
class ExpectedParameter:
    """What the config says about one of our parameters, and what was found for it."""

    module: str
    field: str
    form: WeightForm
    weights: dict[Slot, TensorSpec] = dataclasses.field(default_factory=dict)
    shapes: dict[Slot, Shape] = dataclasses.field(default_factory=dict)
    scales: dict[Slot, TensorSpec] = dataclasses.field(default_factory=dict)
    found: dict[tuple[str, Slot], TensorEntry] = dataclasses.field(default_factory=dict)
    has_bf16: bool = False
    """Whether a weight was found in bfloat16."""
    forms: dict[Shape, Accepted] = dataclasses.field(default_factory=dict)

    def accepted(self, shape: Shape) -> Accepted:
        """What files may hold for a part of this shape; asked for every expert."""
        if shape not in self.forms:
            self.forms[shape] = self.form.accepted(shape)
        return self.forms[shape]

    @property
    def packed(self) -> bool:
        """Whether the release packs it, or a conversion did."""
        return not isinstance(self.form, DenseForm)

    @property
    def unpacked(self) -> bool:
        """Whether it was multiplied out to bfloat16, as some re-uploads of the release are."""
        return self.packed and self.has_bf16

    def expect(self, slot: Slot, spec: TensorSpec) -> None:
        """The release fills this part with the tensor `spec`."""
        self.weights[slot], self.shapes[slot] = spec, _logical(spec)

    def logical(self, slot: Slot) -> Shape:
        """[out, in] of one part, or the whole parameter's shape."""
        if slot in self.shapes:
            return self.shapes[slot]
        shapes = list(self.shapes.values())
        experts = len({expert for expert, _ in self.shapes})
        rows = sum(shape[0] for shape in shapes) // experts
        return (experts, rows, shapes[0][1])


def _logical(spec: TensorSpec) -> Shape:
    """The shape in weights, two of which share a byte of FP4."""
    columns = spec.shape[-1] * (2 if spec.dtype == "I8" else 1)
    shape: Shape = one_object((*spec.shape[:-1], columns))
    return shape
