"""The oracle's own reader of official-format files, on bytes written by hand."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.oracle.checkpoint_numpy import RawTensor, dequantize_checkpoint
from tests.oracle.formats_numpy import decode_e2m1_pairs, decode_e4m3


def write_safetensors(path: Path, tensors: dict[str, RawTensor]) -> None:
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, data) in tensors.items():
        span = [len(body), len(body) + data.nbytes]
        header[name] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": span}
        body += data.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def random_bytes(*shape: int) -> np.ndarray:
    codes = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return np.where(codes & 0x7F == 0x7F, 0, codes).astype(np.uint8)  # no NaN


def test_plain_tensors_keep_their_values(tmp_path):
    ids = np.array([[7, 2**40], [3, 0]], np.int64)
    tensors = {
        "embed.weight": RawTensor("BF16", np.array([[0x3F80, 0xC040]], np.uint16)),
        "layers.0.attn.attn_sink": RawTensor("F32", np.array([0.1, -2], np.float32)),
        "layers.0.ffn.gate.tid2eid": RawTensor("I64", ids),
    }
    write_safetensors(tmp_path / "model.safetensors", tensors)
    weights = dequantize_checkpoint(tmp_path)
    np.testing.assert_array_equal(weights["embed.weight"], [[1.0, -3.0]])
    np.testing.assert_array_equal(weights["layers.0.attn.attn_sink"], [np.float32(0.1), -2])
    np.testing.assert_array_equal(weights["layers.0.ffn.gate.tid2eid"], ids)
    assert weights["layers.0.ffn.gate.tid2eid"].dtype == np.int64


@pytest.mark.parametrize("dtype", ["F8_E8M0", "F32"])
def test_fp8_scales_cover_blocks_of_128_by_128(tmp_path, dtype):
    codes = random_bytes(200, 300)  # neither is a multiple of 128
    exponents = np.arange(6).reshape(2, 3)
    stored = {
        "F8_E8M0": (120 + exponents).astype(np.uint8),
        "F32": (2.0 ** (exponents - 7)).astype(np.float32),
    }[dtype]
    tensors = {
        "a.weight": RawTensor("F8_E4M3", codes),
        "a.scale": RawTensor(dtype, stored),
    }
    write_safetensors(tmp_path / "model.safetensors", tensors)
    weights = dequantize_checkpoint(tmp_path)
    assert list(weights) == ["a.weight"]
    values = decode_e4m3(codes)
    for row, column in [(0, 0), (127, 127), (128, 127), (127, 128), (199, 255), (199, 299)]:
        factor = 2.0 ** (exponents[row // 128, column // 128] - 7)
        assert weights["a.weight"][row, column] == values[row, column] * factor


@pytest.mark.parametrize("dtype", ["I8", "U8"])
def test_fp4_scales_cover_32_inputs_of_a_row(tmp_path, dtype):
    packed = random_bytes(3, 32)  # 64 inputs, two groups
    scales = np.array([[127, 128], [126, 120], [130, 127]], np.uint8)
    tensors = {"e.w1.scale": RawTensor("F8_E8M0", scales), "e.w1.weight": RawTensor(dtype, packed)}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    values = decode_e2m1_pairs(packed).reshape(3, 2, 32)
    expected = values * 2.0 ** (scales.astype(float) - 127)[:, :, None]
    np.testing.assert_array_equal(
        dequantize_checkpoint(tmp_path)["e.w1.weight"], expected.reshape(3, 64)
    )


def test_a_weight_and_its_scale_may_lie_in_different_shards(tmp_path):
    weight = RawTensor("F8_E4M3", np.full((2, 2), 0x38, np.uint8))
    scale = RawTensor("F8_E8M0", np.array([[129]], np.uint8))
    write_safetensors(tmp_path / "model-00001-of-00002.safetensors", {"a.weight": weight})
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", {"a.scale": scale})
    np.testing.assert_array_equal(dequantize_checkpoint(tmp_path)["a.weight"], [[4, 4], [4, 4]])


def test_a_scale_without_weight_is_refused():
    scale = RawTensor("F8_E8M0", np.array([[127]], np.uint8))
    with pytest.raises(ValueError, match="found none for"):
        dequantize_checkpoint({"a.scale": scale})


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        dequantize_checkpoint(tmp_path)
