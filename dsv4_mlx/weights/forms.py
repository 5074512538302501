"""What a parameter is made of, in files and in memory: one class per form in which it is stored.

Each class says which tensors hold a parameter of some shape, by field: `weight`, and what goes with
it. Shapes are logical, [..., out, in], with experts in front. Dtypes go by their names in
safetensors files, so that sizes are known without an array library.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dsv4_mlx.files.safetensors_dtypes import Shape, TensorForm
from dsv4_mlx.weights.quantization import GROUP, PACKINGS, PackingKeys, WeightStorage

Tensors = Mapping[str, TensorForm]
"""The tensors of one parameter, by field."""
Accepted = Mapping[str, tuple[TensorForm, ...]]
"""Every form in which a file may hold a tensor, by field, the official one first."""


@dataclass(frozen=True)
class DenseForm:
    """One number for each weight, stored as `dtype`; `table` where rows are only looked up."""

    dtype: str
    table: bool = False
    storage: ClassVar[WeightStorage] = WeightStorage.DENSE
    packing: ClassVar[PackingKeys | None] = None

    def accepted(self, shape: Shape) -> Accepted:
        """The tensors of files: norms may be float32, and numbers of experts int32."""
        others = {"BF16": ("F32",) if len(shape) == 1 else (), "I64": ("I32",)}
        dtypes = (self.dtype, *others.get(self.dtype, ()))
        return {"weight": tuple(TensorForm(dtype, shape) for dtype in dtypes)}

    def written(self, shape: Shape) -> Tensors:
        """The tensor of a conversion: as it is stored, but numbers of experts int32."""
        return {"weight": TensorForm("I32" if self.dtype == "I64" else self.dtype, shape)}

    def loaded(self, shape: Shape, dense: str) -> Tensors:
        """The array in memory; matrices have the dtype `dense`, norms are float32."""
        dtype = dense
        if self.dtype in ("I64", "I32"):
            dtype = "I32"
        elif self.dtype == "F32" or len(shape) == 1:
            dtype = "F32"
        elif self.table:  # not multiplied: bfloat16 serves every backend
            dtype = "BF16"
        return {"weight": TensorForm(dtype, shape)}


@dataclass(frozen=True)
class Mxfp4Form:
    """FP4 with a scale per 32 inputs, as the release stores experts and MLX multiplies them."""

    storage: ClassVar[WeightStorage] = WeightStorage.MXFP4
    packing: ClassVar[PackingKeys | None] = PACKINGS[storage]

    def accepted(self, shape: Shape) -> Accepted:
        """The tensors of files: two codes a byte or eight a word, or BF16 without scales."""
        packed, pairs = self.written(shape), (*shape[:-1], shape[-1] // 2)
        codes = TensorForm("I8", pairs), TensorForm("U8", pairs), packed["weight"]
        scales = TensorForm("F8_E8M0", packed["scales"].shape), packed["scales"]
        return {"weight": (*codes, TensorForm("BF16", shape)), "scales": scales}

    def written(self, shape: Shape) -> Tensors:
        """The tensors of a conversion: words of codes, and scale bytes."""
        return _packed(shape, self.storage)

    def loaded(self, shape: Shape, dense: str) -> Tensors:
        """The arrays in memory, in which every byte is the file's."""
        return _packed(shape, self.storage)


@dataclass(frozen=True)
class BlockFp8Form:
    """FP8 that is multiplied out when it is loaded; `block` rows and inputs share a scale."""

    block: int
    storage: ClassVar[WeightStorage] = WeightStorage.BLOCK_FP8
    packing: ClassVar[PackingKeys | None] = None

    def accepted(self, shape: Shape) -> Accepted:
        """The tensors of files: codes in bytes or words with scales, or BF16 without scales."""
        packed, blocks = _packed(shape, WeightStorage.MXFP8), self._of_rows(shape)
        blocks = (*blocks[:-2], -(-shape[-2] // self.block), blocks[-1])
        codes = TensorForm("F8_E4M3", shape), packed["weight"]
        scales = (TensorForm(dtype, blocks) for dtype in ("F8_E8M0", "F32", "U8"))
        return {
            "weight": (*codes, TensorForm("BF16", shape)),
            "scales": (*scales, packed["scales"]),
            "block_scales": (TensorForm("F32", self._of_rows(shape)),),
        }

    def written(self, shape: Shape) -> Tensors:
        """The tensors of a conversion: codes as they are, the scales of a block for each row."""
        scales = TensorForm("F32", self._of_rows(shape))
        return {"weight": TensorForm("F8_E4M3", shape), "block_scales": scales}

    def loaded(self, shape: Shape, dense: str) -> Tensors:
        """The array in memory: the weights themselves."""
        return {"weight": TensorForm(dense, shape)}

    def _of_rows(self, shape: Shape) -> Shape:
        return (*shape[:-1], -(-shape[-1] // self.block))


@dataclass(frozen=True)
class Mxfp8Form(BlockFp8Form):
    """FP8 whose scales are powers of two: MLX's mxfp8, with a scale per row and 32 inputs."""

    storage: ClassVar[WeightStorage] = WeightStorage.MXFP8
    packing: ClassVar[PackingKeys | None] = PACKINGS[storage]

    def written(self, shape: Shape) -> Tensors:
        """The tensors of a conversion: words of codes, and scale bytes."""
        return _packed(shape, self.storage)

    def loaded(self, shape: Shape, dense: str) -> Tensors:
        """The arrays in memory, which are those of a conversion."""
        return _packed(shape, self.storage)


@dataclass(frozen=True)
class RowFp8Form(Mxfp8Form):
    """FP8 rows that are looked up: a power of two for every 32 columns of each, as in the files."""

    block: int = GROUP

    def accepted(self, shape: Shape) -> Accepted:
        """The tensors of files: codes in bytes or words with scales, or BF16 without scales."""
        packed = self.written(shape)
        codes = TensorForm("F8_E4M3", shape), packed["weight"], TensorForm("BF16", shape)
        return {
            "weight": codes,
            "scales": (TensorForm("F8_E8M0", packed["scales"].shape), packed["scales"]),
        }


@dataclass(frozen=True)
class AffineForm:
    """Integers of `bits` with a scale and an offset per `group_size` inputs, of a conversion."""

    bits: int
    group_size: int
    storage: ClassVar[WeightStorage] = WeightStorage.AFFINE

    @property
    def packing(self) -> PackingKeys:
        """The arguments of `mlx.nn.quantize`."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": "affine"}

    def accepted(self, shape: Shape) -> Accepted:
        """The tensors of files."""
        groups = tuple(TensorForm(dtype, self._groups(shape)) for dtype in ("BF16", "F32"))
        return {"weight": (_words(shape, self.bits),), "scales": groups, "biases": groups}

    def written(self, shape: Shape) -> Tensors:
        """The tensors of a conversion: words of codes, scales and offsets in bfloat16."""
        return self._with("BF16", shape)

    def loaded(self, shape: Shape, dense: str) -> Tensors:
        """The arrays in memory, with scales and offsets in float32.

        MLX would widen bfloat16 ones beside float32 activations in every product, those of all
        experts for the few that are chosen, so it is done once.
        """
        return self._with("F32", shape)

    def _with(self, dtype: str, shape: Shape) -> Tensors:
        groups = TensorForm(dtype, self._groups(shape))
        return {"weight": _words(shape, self.bits), "scales": groups, "biases": groups}

    def _groups(self, shape: Shape) -> Shape:
        return (*shape[:-1], shape[-1] // self.group_size)


DRAFT_HEAD = AffineForm(8, 64)
"""The copy of the prediction head that drafts read on a GPU."""


WeightForm = DenseForm | Mxfp4Form | BlockFp8Form | Mxfp8Form | AffineForm


def fp8_form(columns: int, block: int) -> BlockFp8Form:
    """The form of FP8 with `columns` inputs, unless its scales are no powers of two."""
    return BlockFp8Form(block) if columns % GROUP else Mxfp8Form(block)


def total_bytes(tensors: Tensors) -> int:
    """Bytes of all tensors of a parameter."""
    return sum(tensor.nbytes for tensor in tensors.values())


def _packed(shape: Shape, storage: WeightStorage) -> Tensors:
    """What MLX multiplies: uint32 words of codes, and a scale byte for every 32 inputs."""
    scales = TensorForm("U8", (*shape[:-1], shape[-1] // GROUP))
    return {"weight": _words(shape, PACKINGS[storage]["bits"]), "scales": scales}


def _words(shape: Shape, bits: int) -> TensorForm:
    return TensorForm("U32", (*shape[:-1], shape[-1] * bits // 32))
