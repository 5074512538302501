"""Reads an official-format safetensors folder into float64 arrays, with json and numpy alone."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .formats_numpy import decode_bf16, decode_e2m1_pairs, decode_e4m3, decode_e8m0

FP8_WEIGHT_BLOCK = 128
FP4_GROUP = 32
STORAGE = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "F8_E4M3": np.uint8, "F8_E8M0": np.uint8, "I8": np.uint8, "U8": np.uint8,
    "I32": np.int32, "I64": np.int64,
}  # fmt: skip
PACKED_FP4 = ("I8", "U8")


class RawTensor(NamedTuple):
    """One tensor as stored: its safetensors dtype name and its bytes in the storage type above."""

    dtype: str
    data: np.ndarray


def read_safetensors(path: Path) -> dict[str, RawTensor]:
    """All tensors of one file, undecoded."""
    content = Path(path).read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + header_bytes])
    header.pop("__metadata__", None)
    body = memoryview(content)[8 + header_bytes :]
    return {name: _raw_tensor(entry, body) for name, entry in header.items()}


def _raw_tensor(entry: dict, body: memoryview) -> RawTensor:
    start, end = entry["data_offsets"]
    data = np.frombuffer(body[start:end], STORAGE[entry["dtype"]])
    return RawTensor(entry["dtype"], data.reshape(entry["shape"]))


def read_folder(folder: Path) -> dict[str, RawTensor]:
    """All tensors of all *.safetensors files of a folder; a name may occur once only."""
    tensors: dict[str, RawTensor] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        shard = read_safetensors(path)
        if repeated := tensors.keys() & shard.keys():
            raise ValueError(f"{path.name}: tensors already seen in another shard: {repeated}.")
        tensors |= shard
    if not tensors:
        raise ValueError(f"{folder}: expected *.safetensors files, found none.")
    return tensors


def dequantize_checkpoint(
    source: str | Path | Mapping[str, RawTensor],
) -> dict[str, np.ndarray]:
    """Official names -> float64 values, integers as int64; scales are applied and left out."""
    tensors = source if isinstance(source, Mapping) else read_folder(Path(source))
    scales = {name for name in tensors if name.endswith(".scale")}
    weights = {}
    for name in tensors.keys() - scales:
        scale_name = name.removesuffix(".weight") + ".scale"
        scale = tensors[scale_name] if scale_name in scales else None
        scales.discard(scale_name)
        weights[name] = dequantize(tensors[name], scale)
    if scales:
        raise ValueError(f"Expected a weight for every scale, found none for {sorted(scales)}.")
    return weights


def dequantize(weight: RawTensor, scale: RawTensor | None) -> np.ndarray:
    """One tensor with its optional scale -> float64 [out, in]."""
    if scale is None:
        return _plain_values(weight)
    factors = _plain_values(scale)
    if weight.dtype in PACKED_FP4:
        return decode_e2m1_pairs(weight.data) * np.repeat(factors, FP4_GROUP, axis=-1)
    values = _plain_values(weight)
    return values * _spread_blocks(factors, *values.shape)


def _spread_blocks(factors: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """[ceil(rows/128), ceil(columns/128)] -> [rows, columns]."""
    spread = factors.repeat(FP8_WEIGHT_BLOCK, axis=0).repeat(FP8_WEIGHT_BLOCK, axis=1)
    return spread[:rows, :columns]


def _plain_values(tensor: RawTensor) -> np.ndarray:
    decode = {"BF16": decode_bf16, "F8_E4M3": decode_e4m3, "F8_E8M0": decode_e8m0}.get(tensor.dtype)
    if decode is not None:
        return decode(tensor.data)
    integers = np.issubdtype(tensor.data.dtype, np.integer)
    return tensor.data.astype(np.int64 if integers else np.float64)
