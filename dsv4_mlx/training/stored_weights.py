"""Weights as the release stores them: rounded while training, written when training ends.

Training runs forward and backward with `rounded` weights and applies the gradients to the float32
masters (straight-through), so that the released FP4 and FP8 weights are the ones that were
trained. The scale of a block is the smallest power of two that avoids overflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from dsv4_mlx.files.safetensors_writing import TensorPlan, plan_array, write_file
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.engram import SCALE_GROUP
from dsv4_mlx.release.naming import ENGRAM_TABLE, Target, translate
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.release.tensors import FP8_BLOCK, TensorSpec, checkpoint_tensors
from dsv4_mlx.training.muon import Parameters
from metal_kernels.shared.formats import E4M3_MAX, power_of_two_scale, round_bf16


def stored_dtypes(config: DeepseekV4Config) -> dict[str, str]:
    """Our parameter names -> the safetensors dtype the release stores them in."""
    return {
        target.name: spec.dtype
        for spec, target in _targets(config)
        if not spec.name.endswith(".scale")
    }


def parameter_shapes(config: DeepseekV4Config) -> dict[str, tuple[int, ...]]:
    """Our parameter names -> dense shapes; the matrices of all experts are one stack."""
    shapes: dict[str, tuple[int, ...]] = {}
    for spec, target in _targets(config):
        if spec.name.endswith(".scale"):
            continue
        shape = spec.shape
        if target.expert is not None:
            rows = shape[0] * (2 if target.module.endswith("gate_up_proj") else 1)
            columns = shape[1] * (2 if spec.dtype == "I8" else 1)
            shape = (config.n_routed_experts, rows, columns)
        shapes[target.name] = shape
    return shapes


def rounded(parameters: Parameters, dtypes: dict[str, str]) -> Parameters:
    """Every parameter with the values its stored form will have, float32."""
    rounding = {"F8_E4M3": _round_fp8, "I8": _round_fp4, "BF16": round_bf16}
    tables = {**rounding, "F8_E4M3": _round_fp8_rows}
    found = {}
    for name, value in parameters.items():
        round_to = (tables if _is_table(name) else rounding).get(dtypes[name])
        found[name] = value if round_to is None else round_to(value)
    return found


def _is_table(name: str) -> bool:
    """Whether the parameter is an Engram table, whose rows have scales of their own."""
    return name.endswith(f"{ENGRAM_TABLE}.weight")


def fp8_codes(weight: mx.array) -> tuple[mx.array, mx.array]:
    """[n, m] -> e4m3 codes uint8 [n, m], float32 scales [ceil(n/128), ceil(m/128)]."""
    rows, columns = weight.shape
    padding = [(0, -rows % FP8_BLOCK), (0, -columns % FP8_BLOCK)]
    padded = mx.pad(weight, padding) if rows % FP8_BLOCK or columns % FP8_BLOCK else weight
    n, m = padded.shape
    blocks = padded.reshape(n // FP8_BLOCK, FP8_BLOCK, m // FP8_BLOCK, FP8_BLOCK)
    scales = power_of_two_scale(
        mx.maximum(mx.abs(blocks).max(axis=(1, 3), keepdims=True), 1e-30), E4M3_MAX
    )
    codes = mx.to_fp8(blocks / scales).reshape(n, m)[:rows, :columns]
    return codes, scales.reshape(n // FP8_BLOCK, m // FP8_BLOCK)


def _round_fp8(weight: mx.array) -> mx.array:
    codes, scales = fp8_codes(weight)
    expanded = mx.repeat(mx.repeat(scales, FP8_BLOCK, 0), FP8_BLOCK, 1)
    values = mx.from_fp8(codes, mx.float32)
    return values * expanded[: weight.shape[0], : weight.shape[1]]


def _fp8_rows(rows: mx.array) -> tuple[mx.array, mx.array]:
    """[n, m] -> e4m3 codes uint8 [n, m], float32 scales [n, m / 32]."""
    groups = rows.reshape(rows.shape[0], -1, SCALE_GROUP)
    scales = power_of_two_scale(
        mx.maximum(mx.abs(groups).max(axis=-1, keepdims=True), 1e-30), E4M3_MAX
    )
    return mx.to_fp8(groups / scales).reshape(rows.shape), scales[..., 0]


def _round_fp8_rows(rows: mx.array) -> mx.array:
    codes, scales = _fp8_rows(rows)
    return mx.from_fp8(codes, mx.float32) * mx.repeat(scales, SCALE_GROUP, 1)


def _round_fp4(weight: mx.array) -> mx.array:
    codes, scales, *_ = mx.quantize(weight, mode="mxfp4")
    return mx.dequantize(codes, scales, mode="mxfp4", dtype=mx.float32)


def write_release(
    folder: Path, config: DeepseekV4Config, parameters: Parameters, *, shard_bytes: int
) -> None:
    """Write config.json, shards and index in the official format; the tokenizer is not ours."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[TensorPlan]] = [[]]
    for plan in release_tensors(config, parameters):
        if shards[-1] and sum(p.nbytes for p in shards[-1]) + plan.nbytes > shard_bytes:
            shards.append([])
        shards[-1].append(plan)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / file, shard)
        weight_map |= {plan.name: file for plan in shard}
    total = sum(plan.nbytes for shard in shards for plan in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", keys_of(config))


def release_tensors(config: DeepseekV4Config, parameters: Parameters) -> Iterator[TensorPlan]:
    """The tensors of the official files, from dense parameters by our names."""
    for spec, target in _targets(config):
        if spec.name.endswith(".scale"):
            continue  # written together with its weight
        value = _part(parameters[target.name], target)
        if spec.dtype in ("F8_E4M3", "I8"):
            store = _store_fp8 if spec.dtype == "F8_E4M3" else _store_fp4
            codes, scales = (_store_fp8_rows if _is_table(target.name) else store)(value)
            yield plan_array(spec.name, spec.dtype, codes)
            yield plan_array(spec.name.removesuffix("weight") + "scale", "F8_E8M0", scales)
        else:
            yield plan_array(spec.name, spec.dtype, _store_plain(value, spec.dtype))


def _targets(config: DeepseekV4Config) -> Iterator[tuple[TensorSpec, Target]]:
    for spec in checkpoint_tensors(config):
        target = translate(spec.name)
        assert target is not None, spec.name
        yield spec, target


def _part(value: mx.array, target: Target) -> mx.array:
    """The matrix of one expert out of the stacked ones; gate is the first half of gate_up."""
    if target.expert is None:
        return value
    matrix = value[target.expert]
    if not target.module.endswith("gate_up_proj"):
        return matrix
    half = matrix.shape[0] // 2
    return matrix[target.half * half : (target.half + 1) * half]


def _store_fp8(weight: mx.array) -> tuple[np.ndarray, np.ndarray]:
    codes, scales = fp8_codes(weight)
    return np.array(codes), _exponents(scales)


def _store_fp8_rows(rows: mx.array) -> tuple[np.ndarray, np.ndarray]:
    codes, scales = _fp8_rows(rows)
    return np.array(codes), _exponents(scales)


def _exponents(scales: mx.array) -> np.ndarray:
    """Powers of two as bytes."""
    return np.array(scales.view(mx.uint32) >> 23).astype(np.uint8)


def _store_fp4(weight: mx.array) -> tuple[np.ndarray, np.ndarray]:
    """Even inputs lie in the low nibble, as MLX packs them; only the view differs."""
    codes, scales, *_ = mx.quantize(weight, mode="mxfp4")
    return np.array(codes).view(np.int8), np.array(scales)


def _store_plain(value: mx.array, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return np.array(value.astype(mx.bfloat16).view(mx.uint16))
    return np.array(value).astype({"F32": np.float32, "I64": np.int64}[dtype])


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
