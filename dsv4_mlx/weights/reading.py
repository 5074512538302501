"""The arrays of a plan, read from files one parameter at a time.

Stacked experts are filled expert by expert into their place, so the peak stays near the model's own
size. FP4 and FP8 become MLX's packed formats without a change of value.
"""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx

from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.paths import utf8_spelling
from dsv4_mlx.files.safetensors_dtypes import TensorForm
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, Checkpoint
from dsv4_mlx.weights.forms import AffineForm, BlockFp8Form, Mxfp4Form, Mxfp8Form
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan, Part
from dsv4_mlx.weights.quantization import SCALE_BYTES
from dsv4_mlx.weights.scales import packed_scales, row_scales
from metal_kernels.backend import Backend

# Parts put into a stacked matrix between two evaluations: few enough to hold, enough to be quick.
_PARTS_PER_STEP = 8

MLX_DTYPES = {
    "BF16": mx.bfloat16, "F32": mx.float32, "I32": mx.int32, "U32": mx.uint32, "U8": mx.uint8,
}  # fmt: skip
"""The dtypes of loaded arrays by their names in safetensors files."""
DTYPE_NAMES = {dtype: name for name, dtype in MLX_DTYPES.items()}


def dense_dtype(dtype: mx.Dtype | None, backend: Backend) -> mx.Dtype:
    """The dtype of unpacked matrices on a backend; UsageError for one that cannot hold them."""
    if dtype is None:
        # What stays unpacked (head, router, compressors) multiplies in float32 in the release too.
        return mx.float32 if backend == "cpu" else mx.bfloat16
    if dtype not in (mx.bfloat16, mx.float32):
        raise UsageError(
            f"dtype is {dtype}, expected mlx.core.bfloat16 or mlx.core.float32; float16 cannot "
            "hold the release's weights."
        )
    return dtype


def require_whole(checkpoint: Checkpoint) -> None:
    """CheckpointError for a part of a model."""
    if checkpoint.layers is not None:
        raise CheckpointError(
            f"{checkpoint.folder} holds {checkpoint.layers.sentence()}, expected all of them; use "
            "it together with a second Mac that has the others, or put the parts together with "
            "`dsv4-convert join`."
        )


def require_finished(checkpoint: Checkpoint, plan: ParameterPlan) -> None:
    """CheckpointError for a folder that a conversion was interrupted in."""
    ours = any(part.weight.dtype == "U32" for one in plan.parameters for part in one.parts)
    if ours and not (checkpoint.folder / CONVERSION_FILE).is_file():
        raise CheckpointError(
            f"{checkpoint.folder} is an unfinished conversion: it has no {CONVERSION_FILE}; "
            "delete the folder and convert again."
        )


def read_weights(
    checkpoint: Checkpoint, plan: ParameterPlan, dtype: mx.Dtype
) -> Iterator[tuple[str, mx.array]]:
    """Evaluated arrays of all parameters by name, matrices in `dtype` where they are unpacked."""
    reader, experts = _Reader(), checkpoint.config.n_routed_experts
    for parameter in plan.parameters:
        loaded = parameter.form.loaded(parameter.shape, DTYPE_NAMES[dtype])
        for field, form in loaded.items():
            name = f"{parameter.module}.{field}"
            if field == "weight":
                name, array = parameter.name, _weight(reader, parameter, form, experts)
            elif isinstance(parameter.form, AffineForm):
                array = _affine(reader, getattr(parameter.parts[0], field), form)
            else:
                array = _packed_scales(reader, parameter, form)
            mx.eval(array)
            yield name, array


class _Reader:
    """Tensors as lazy MLX arrays, one open file per shard."""

    def __init__(self) -> None:
        self._files: dict[Path, dict[str, mx.array]] = {}

    def __call__(self, entry: TensorEntry) -> mx.array:
        """The stored elements; 8-bit floats come as uint8."""
        if entry.path not in self._files:
            try:
                with utf8_spelling(entry.path) as name:
                    tensors = mx.load(name, format="safetensors")
            except (RuntimeError, OSError) as error:
                raise CheckpointError(
                    f"{entry.path.name} cannot be read ({error}); download it again."
                ) from error
            assert isinstance(tensors, dict)  # what a safetensors file gives
            self._files[entry.path] = tensors
        # Taken out, so that the file's table does not keep what was read alive.
        return self._files[entry.path].pop(entry.name)


def _weight(reader: _Reader, parameter: Parameter, form: TensorForm, experts: int) -> mx.array:
    match parameter.form:
        case AffineForm():
            return reader(parameter.parts[0].weight)
        case Mxfp4Form() | Mxfp8Form():
            return _packed_codes(reader, parameter, form)
        case BlockFp8Form():
            return _multiplied_out(reader, parameter, form)
    if len(parameter.parts) > 1:
        return _unpacked(reader, parameter, form)
    return _dense(reader, parameter, form, experts)


def _dense(reader: _Reader, parameter: Parameter, form: TensorForm, experts: int) -> mx.array:
    entry = parameter.parts[0].weight
    array = reader(entry)
    if parameter.field == "tid2eid":
        outside = (array < 0) | (array >= experts)
        _refuse_if(outside, entry, f"an expert outside 0 to {experts - 1}")
    elif entry.dtype == "F32":
        _refuse_if(~mx.isfinite(array), entry, "a number that is not finite")
    return array.astype(MLX_DTYPES[form.dtype])


def _affine(reader: _Reader, entry: TensorEntry, form: TensorForm) -> mx.array:
    """The scale or the offset of every group, [..., out, in / group_size]."""
    array = reader(entry).astype(MLX_DTYPES[form.dtype])
    _refuse_if(~mx.isfinite(array), entry, "a number that is not finite")
    return array


def _packed_codes(reader: _Reader, parameter: Parameter, form: TensorForm) -> mx.array:
    """The codes as MLX packs them: uint32 [..., out, in * bits / 32], bytes unchanged."""
    pieces = (reader(part.weight).view(mx.uint32) for part in parameter.parts)
    return _stacked(pieces, parameter, form)


def _packed_scales(reader: _Reader, parameter: Parameter, form: TensorForm) -> mx.array:
    """uint8 e8m0 [..., out, in / 32], each in the range where MLX is exact."""
    packed = parameter.form
    assert isinstance(packed, Mxfp4Form | Mxfp8Form)
    pieces = (_scale_bytes(reader, part, packed) for part in parameter.parts)
    scales = _stacked(pieces, parameter, form)
    low, high = SCALE_BYTES[packed.storage]
    if ((scales.min() < low) | (scales.max() > high)).item():
        for part in parameter.parts:
            packed_scales(part, packed)  # the one at fault raises with its name
    return scales


def _scale_bytes(reader: _Reader, part: Part, form: Mxfp4Form | Mxfp8Form) -> mx.array:
    """Scales stored as MLX wants them are read fast, the few others spread over their rows."""
    if part.scales is None or part.scales_are_per_block:
        return mx.array(packed_scales(part, form))
    return reader(part.scales)


def _multiplied_out(reader: _Reader, parameter: Parameter, form: TensorForm) -> mx.array:
    """FP8 codes times their scales: one product in float32, then the dtype of `form`."""
    fp8 = parameter.form
    assert isinstance(fp8, BlockFp8Form)
    pieces = (
        dequantize_blocks(reader(part.weight), mx.array(row_scales(part, fp8)), fp8.block).astype(
            MLX_DTYPES[form.dtype]
        )
        for part in parameter.parts
    )
    return _stacked(pieces, parameter, form)


def dequantize_blocks(codes: mx.array, scales: mx.array, block: int) -> mx.array:
    """e4m3 codes uint8 [..., out, in], float32 scales [..., out, ceil(in / block)] -> float32.

    One product per element, rounded once to float32: exact for power-of-two scales.
    """
    factors = mx.repeat(scales, block, axis=-1)[..., : codes.shape[-1]]
    return mx.from_fp8(codes, mx.float32) * factors


def _unpacked(reader: _Reader, parameter: Parameter, form: TensorForm) -> mx.array:
    """Parts that are stored multiplied out: their bfloat16 values in the dtype of `form`."""
    pieces = (reader(part.weight).astype(MLX_DTYPES[form.dtype]) for part in parameter.parts)
    return _stacked(pieces, parameter, form)


def _stacked(pieces: Iterator[mx.array], parameter: Parameter, form: TensorForm) -> mx.array:
    """All parts as one array, filled in place to hold the weights only once."""
    if len(parameter.parts) == 1:
        return next(pieces).reshape(form.shape)
    rows = parameter.parts[0].shape[:-1]
    stack = mx.zeros((len(parameter.parts), *rows, form.shape[-1]), MLX_DTYPES[form.dtype])
    for index, piece in enumerate(pieces):
        stack[index] = piece
        if index % _PARTS_PER_STEP == 0:
            mx.eval(stack)
    mx.eval(stack)
    return stack.reshape(form.shape)


def _refuse_if(wrong: mx.array, entry: TensorEntry, what: str) -> None:
    if wrong.any().item():
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} holds {what}; download the file again."
        )
