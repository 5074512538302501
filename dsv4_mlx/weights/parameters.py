"""The parameters of a model and the stored tensors that each is made of."""

from collections.abc import Iterator
from dataclasses import dataclass

from dsv4_mlx.files.safetensors_dtypes import Shape, TensorForm
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.naming import is_draft
from dsv4_mlx.weights.forms import Tensors, WeightForm
from dsv4_mlx.weights.quantization import PackingKeys, WeightStorage


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of one parameter: [..., out, in] `shape`, stored in one or two tensors."""

    shape: Shape
    weight: TensorEntry
    scales: TensorEntry | None = None
    biases: TensorEntry | None = None

    @property
    def scales_are_per_block(self) -> bool:
        """Whether one scale stands for a block of rows, as in the release; ours repeat it."""
        return self.scales is not None and self.scales.shape[-2:-1] != self.shape[-2:-1]


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model, or one packed matrix with its scales.

    `module` and `field` name it; `shape` is the logical one, [E, out, in] for stacked experts.
    `parts` in order fill its rows.
    """

    module: str
    field: str
    shape: Shape
    form: WeightForm
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        return self._name("weight")

    @property
    def storage(self) -> WeightStorage:
        return self.form.storage

    @property
    def packing(self) -> PackingKeys | None:
        """The arguments of `mlx.nn.quantize`; None where the weight is not packed."""
        return self.form.packing

    def written(self) -> dict[str, TensorForm]:
        """The tensors of a native conversion, by name."""
        return self._named(self.form.written(self.shape))

    def loaded(self, dense: str) -> dict[str, TensorForm]:
        """The arrays in memory, by name; `dense` is the dtype of unpacked matrices."""
        return self._named(self.form.loaded(self.shape, dense))

    def _named(self, tensors: Tensors) -> dict[str, TensorForm]:
        return {self._name(field): form for field, form in tensors.items()}

    def _name(self, field: str) -> str:
        return f"{self.module}.{self.field if field == 'weight' else field}"


@dataclass(frozen=True)
class ParameterPlan:
    """Where everything goes: `set_aside` are tensors that this program knowingly does not run,
    `drafts` DSpark's stages, which are loaded where somebody wants them."""

    parameters: tuple[Parameter, ...]
    set_aside: tuple[TensorEntry, ...]
    drafts: tuple[Parameter, ...] = ()

    @property
    def has_drafts(self) -> bool:
        """Whether there are weights of draft blocks, MTP or DSpark."""
        return bool(self.drafts) or any(is_draft(one.module) for one in self.parameters)

    def bare(self) -> "ParameterPlan":
        """The same without draft blocks."""
        others = tuple(one for one in self.parameters if not is_draft(one.module))
        return ParameterPlan(others, self.set_aside)

    def loaded_bytes(self, dense: str) -> int:
        """Bytes of all arrays in memory; `dense` is the dtype of unpacked matrices."""
        return sum(form.nbytes for _, form in self.loaded(dense))

    def loaded(self, dense: str) -> Iterator[tuple[str, TensorForm]]:
        """Name, dtype and shape of every array in memory; `dense` is that of unpacked matrices."""
        for parameter in self.parameters:
            yield from parameter.loaded(dense).items()
