"""From a checkpoint folder to a model that runs.

Weights are read one parameter at a time: stacked experts are filled expert by expert into their
place, so the peak stays near the model's own size. FP4 and FP8 become MLX's packed formats without
a change of value.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
from mlx.nn.layers.quantized import quantize

from dsv4_mlx.checkpoint import CONVERSION_FILE, Checkpoint, open_checkpoint
from dsv4_mlx.errors import BackendError, CheckpointError, UsageError
from dsv4_mlx.fingerprint import fingerprint
from dsv4_mlx.numerics import Numerics
from dsv4_mlx.parameters import Parameter, ParameterPlan, Part, plan_parameters
from dsv4_mlx.paths import utf8_spelling
from dsv4_mlx.quantization import GROUP, SCALE_BYTES, Storage, dequantize_blocks
from dsv4_mlx.safetensors_files import TensorEntry
from dsv4_mlx.scales import packed_scales, row_scales
from metal_kernels.backend import MissingBackend, resolve
from metal_kernels.registry import KernelPlan

if TYPE_CHECKING:
    from dsv4_mlx.model import Model
    from dsv4_mlx.tokenizer import Tokenizer

# Parts put into a stacked matrix between two evaluations: few enough to hold, enough to be quick.
_PARTS_PER_STEP = 8
EMBEDDING = "model.embed_tokens"


def load(
    path: str | Path,
    *,
    dtype: mx.Dtype | None = None,
    numerics: Numerics = Numerics.OFFICIAL,
    backend: str = "auto",
    kv: str | None = None,
) -> tuple["Model", "Tokenizer"]:
    """Load an official or a converted folder -> (model, tokenizer).

    `dtype` (bfloat16 or float32) is that of unpacked matrices; by default float32 on a CPU, whose
    products need it, and on a GPU bfloat16, as they are stored: its kernels multiply them exactly.
    `kv` (`compact`, the default, or `bf16`) says how caches store rows. The embedding stays
    bfloat16; norms and what is stored in float32 are float32. `model.fingerprint` names the
    weights. Raises CheckpointError, ConfigError, BackendError or UsageError, each a sentence.
    """
    from dsv4_mlx.tokenizer import Tokenizer

    dtype = dense_dtype(dtype, backend)
    checkpoint = open_checkpoint(path)
    model = load_model(checkpoint, dtype=dtype, numerics=numerics, backend=backend, kv=kv)
    return model, Tokenizer(checkpoint.folder)


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype,
    numerics: Numerics = Numerics.OFFICIAL,
    backend: str = "auto",
    kv: str | None = None,
    kernels: KernelPlan | None = None,
) -> "Model":
    """The model of an opened checkpoint, its weights read; `kernels` as `Model`'s plan."""
    from dsv4_mlx.model import Model

    plan = plan_parameters(checkpoint)
    _require_finished(checkpoint, plan)
    model = Model(checkpoint.config, numerics=numerics, backend=backend, kv=kv, plan=kernels)
    pack_layers(model, plan.parameters)
    model.load_weights(list(read_weights(checkpoint, plan, dtype)), strict=True)
    model.join()
    model.fingerprint = fingerprint(checkpoint, plan)
    return model


def pack_layers(model: "Model", parameters: Iterable[Parameter]) -> None:
    """Make the layers of packed parameters packed ones, ready for their weights."""
    packings = {one.module: one.packing for one in parameters if one.packing is not None}
    quantize(model, class_predicate=lambda name, _: packings.get(name, False))


def dense_dtype(dtype: mx.Dtype | None, backend: str) -> mx.Dtype:
    """The dtype of unpacked matrices; see `load`."""
    try:
        resolved = resolve(backend)
    except MissingBackend as error:
        raise BackendError(str(error)) from error
    if dtype is None:
        # What stays unpacked (head, router, compressors) multiplies in float32 in the release too.
        return mx.float32 if resolved == "cpu" else mx.bfloat16
    if dtype not in (mx.bfloat16, mx.float32):
        raise UsageError(
            f"dtype is {dtype}, expected mlx.core.bfloat16 or mlx.core.float32; float16 cannot "
            "hold the release's weights."
        )
    return dtype


def read_weights(
    checkpoint: Checkpoint, plan: ParameterPlan, dtype: mx.Dtype
) -> Iterator[tuple[str, mx.array]]:
    """Evaluated arrays of all parameters by name, matrices in `dtype` where they are unpacked."""
    reader = _Reader()
    for parameter in plan.parameters:
        if parameter.storage is Storage.DENSE and len(parameter.parts) > 1:
            array = _unpacked(reader, parameter, dtype)
        elif parameter.storage is Storage.DENSE:
            array = _dense(reader, parameter, dtype, checkpoint.config.n_routed_experts)
        elif parameter.storage is Storage.BLOCK_FP8:
            array = _multiplied_out(reader, parameter, dtype)
        elif parameter.storage is Storage.AFFINE:
            yield from _affine(reader, parameter)
            array = reader(parameter.parts[0].weight)
        else:
            yield f"{parameter.module}.scales", _packed_scales(reader, parameter)
            array = _packed_codes(reader, parameter)
        mx.eval(array)
        yield parameter.name, array


def _require_finished(checkpoint: Checkpoint, plan: ParameterPlan) -> None:
    ours = any(part.weight.dtype == "U32" for one in plan.parameters for part in one.parts)
    if ours and not (checkpoint.folder / CONVERSION_FILE).is_file():
        raise CheckpointError(
            f"{checkpoint.folder} is an unfinished conversion: it has no {CONVERSION_FILE}; "
            "delete the folder and convert again."
        )


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


def _dense(reader: _Reader, parameter: Parameter, dtype: mx.Dtype, experts: int) -> mx.array:
    entry = parameter.parts[0].weight
    array = reader(entry)
    if parameter.field == "tid2eid":
        outside = (array < 0) | (array >= experts)
        _refuse_if(outside, entry, f"an expert outside 0 to {experts - 1}")
    elif entry.dtype == "F32":
        _refuse_if(~mx.isfinite(array), entry, "a number that is not finite")
    return array.astype(loaded_dtype(parameter, dtype))


def loaded_dtype(parameter: Parameter, dense: mx.Dtype) -> mx.Dtype:
    """The dtype of a parameter that is not packed; matrices get `dense`."""
    if parameter.field == "tid2eid":
        return mx.int32
    if parameter.parts[0].weight.dtype == "F32" or len(parameter.shape) == 1:
        return mx.float32  # as stored, and norms
    # Rows of the embedding are looked up, not multiplied: bfloat16 serves every backend.
    return mx.bfloat16 if parameter.module == EMBEDDING else dense


def _affine(reader: _Reader, parameter: Parameter) -> Iterator[tuple[str, mx.array]]:
    """Scale and offset of every group, float32 [..., out, in / group_size].

    MLX would widen bfloat16 ones beside float32 activations in every product, those of all experts
    for the few that are chosen, so it is done once.
    """
    part = parameter.parts[0]
    for field, entry in (("scales", part.scales), ("biases", part.biases)):
        assert entry is not None  # the plan requires both
        array = reader(entry).astype(mx.float32)
        _refuse_if(~mx.isfinite(array), entry, "a number that is not finite")
        yield f"{parameter.module}.{field}", array


def _packed_codes(reader: _Reader, parameter: Parameter) -> mx.array:
    """The codes as MLX packs them: uint32 [..., out, in * bits / 32], bytes unchanged."""
    per_word = 8 if parameter.storage is Storage.MXFP4 else 4
    pieces = (reader(part.weight).view(mx.uint32) for part in parameter.parts)
    return _stacked(pieces, parameter, parameter.shape[-1] // per_word, mx.uint32)


def _packed_scales(reader: _Reader, parameter: Parameter) -> mx.array:
    """uint8 e8m0 [..., out, in / 32], each in the range where MLX is exact."""
    pieces = (_scale_bytes(reader, part, parameter.storage) for part in parameter.parts)
    scales = _stacked(pieces, parameter, parameter.shape[-1] // GROUP, mx.uint8)
    low, high = SCALE_BYTES[parameter.storage]
    if scales.min().item() < low or scales.max().item() > high:
        for part in parameter.parts:
            packed_scales(part, parameter.storage)  # the one at fault raises with its name
    return scales


def _scale_bytes(reader: _Reader, part: Part, storage: Storage) -> mx.array:
    """Scales stored as MLX wants them are read fast, the few others spread over their rows."""
    if part.scales is None or part.scales_are_per_block:
        return mx.array(packed_scales(part, storage))
    return reader(part.scales)


def _multiplied_out(reader: _Reader, parameter: Parameter, dtype: mx.Dtype) -> mx.array:
    """FP8 codes times their scales: one product in float32, then `dtype`."""
    pieces = (
        dequantize_blocks(reader(part.weight), mx.array(row_scales(part))).astype(dtype)
        for part in parameter.parts
    )
    return _stacked(pieces, parameter, parameter.shape[-1], dtype)


def _unpacked(reader: _Reader, parameter: Parameter, dtype: mx.Dtype) -> mx.array:
    """Parts that are stored multiplied out: their bfloat16 values, as `dtype`."""
    pieces = (reader(part.weight).astype(dtype) for part in parameter.parts)
    return _stacked(pieces, parameter, parameter.shape[-1], dtype)


def _stacked(
    pieces: Iterator[mx.array], parameter: Parameter, width: int, dtype: mx.Dtype
) -> mx.array:
    """All parts as one array [..., out, width], filled in place to hold the weights only once."""
    shape = (*parameter.shape[:-1], width)
    if len(parameter.parts) == 1:
        return next(pieces).reshape(shape)
    stack = mx.zeros((len(parameter.parts), *parameter.parts[0].shape[:-1], width), dtype)
    for index, piece in enumerate(pieces):
        stack[index] = piece
        if index % _PARTS_PER_STEP == 0:
            mx.eval(stack)
    mx.eval(stack)
    return stack.reshape(shape)


def _refuse_if(wrong: mx.array, entry: TensorEntry, what: str) -> None:
    if wrong.any().item():
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} holds {what}; download the file again."
        )
