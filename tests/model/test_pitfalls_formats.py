"""Known pitfalls of number formats: rows 25 (as stored), 27, 28 and 43 to 45."""

from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels.compress.reference as compress
import metal_kernels.qkv_prepare.reference as qkv_prepare
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_writing import plan_array
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY, edit_checkpoint, write_tiny_checkpoint
from dsv4_mlx.weights import planning, reading
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.quantization import WeightStorage
from metal_kernels.registry import plan
from metal_kernels.shared import formats
from tests.model.pitfalls import Check, Pitfalls, Plant, expect_notice, wrap
from tests.oracle import formats_numpy as oracle
from tests.oracle import v4_numpy as v4

PITFALLS = Pitfalls()
ONE_LAYER = TINY.replace(
    num_hidden_layers=1,
    num_hash_layers=0,
    num_nextn_predict_layers=0,
    n_routed_experts=4,
    compress_ratios=(4,),
)
EXPERT = "layers.0.ffn.experts.0.w1"


def loaded(folder: Path) -> Model:
    checkpoint = open_checkpoint(folder)
    return load_model(checkpoint, dtype=mx.float32, numerics=Numerics.PLAIN, backend="cpu")


def written(folder: str) -> Path:
    return write_tiny_checkpoint(Path(folder), ONE_LAYER, tokenizer=False)


def values(matrix) -> np.ndarray:
    """A packed matrix as MLX unpacks it."""
    packing = matrix.packing
    assert packing is not None
    return np.array(
        mx.dequantize(matrix.weight, matrix.scales, mode=packing.mode, dtype=mx.float32), np.float64
    )


# --- 25: w1 is the gate, in files too -------------------------------------------------------------


def w1_and_w3_stacked_the_other_way_round(patch: pytest.MonkeyPatch) -> None:
    def make(translate):
        def wrong(name):
            target = translate(name)
            if target is not None and target.module.endswith("experts.gate_up_proj"):
                target = target._replace(half=1 - target.half)
            return target

        return wrong

    wrap(patch, planning, "translate", make)


@PITFALLS.row(25, w1_and_w3_stacked_the_other_way_round)
def check_w1_fills_the_first_rows_of_gate_up() -> None:
    with TemporaryDirectory() as folder:
        tensors = v4.dequantize_checkpoint(written(folder))
        stacked = values(loaded(Path(folder)).layers[0].mlp.experts.gate_up_proj)
    width = ONE_LAYER.moe_intermediate_size
    for expert, found in enumerate(stacked):
        name = f"layers.0.ffn.experts.{expert}"
        np.testing.assert_array_equal(found[:width], tensors[f"{name}.w1.weight"])
        np.testing.assert_array_equal(found[width:], tensors[f"{name}.w3.weight"])


# --- 27: the low nibble comes first ---------------------------------------------------------------


def nibbles_swapped(patch: pytest.MonkeyPatch) -> None:
    def make(codes):
        def wrong(reader, parameter, form):
            packed = codes(reader, parameter, form)
            if parameter.storage is not WeightStorage.MXFP4:
                return packed
            return ((packed & 0x0F0F0F0F) << 4) | ((packed >> 4) & 0x0F0F0F0F)

        return wrong

    wrap(patch, reading, "_packed_codes", make)


def packed_along_the_other_half(patch: pytest.MonkeyPatch) -> None:
    """Nibbles read as if byte i held inputs i and i + in / 2."""

    def make(codes):
        def wrong(reader, parameter, form):
            packed = codes(reader, parameter, form)
            if parameter.storage is not WeightStorage.MXFP4:
                return packed
            data = np.array(packed.view(mx.uint8))
            nibbles = np.concatenate([data & 15, data >> 4], axis=-1)
            joined = nibbles[..., ::2] | nibbles[..., 1::2] << 4
            return mx.array(joined).view(mx.uint32)

        return wrong

    wrap(patch, reading, "_packed_codes", make)


@PITFALLS.row(27, nibbles_swapped, packed_along_the_other_half)
def check_the_low_nibble_is_the_even_input() -> None:
    """Bytes 0x21 with scale one are 0.5, 1, 0.5, 1, ...; another row counts through the codes."""
    rows, inputs = ONE_LAYER.moe_intermediate_size, ONE_LAYER.hidden_size
    codes = np.full((rows, inputs // 2), 0x21, np.uint8)
    codes[1] = np.arange(inputs // 2) % 256
    scales = np.full((rows, inputs // 32), 127, np.uint8)
    with TemporaryDirectory() as folder:
        written(folder)
        changes = {
            f"{EXPERT}.weight": plan_array(f"{EXPERT}.weight", "I8", codes.view(np.int8)),
            f"{EXPERT}.scale": plan_array(f"{EXPERT}.scale", "F8_E8M0", scales),
        }
        edit_checkpoint(folder, changes)
        found = values(loaded(Path(folder)).layers[0].mlp.experts.gate_up_proj)[0]
    np.testing.assert_array_equal(found[0], [0.5, 1.0] * (inputs // 2))
    np.testing.assert_array_equal(found[1], oracle.decode_e2m1_pairs(codes[1]))


# --- 28: scales are exponents ---------------------------------------------------------------------


def _wrong_scales(name: str, change) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def make(packed_scales):
            return lambda *arguments: change(packed_scales(*arguments))

        wrap(patch, reading, "packed_scales", make)

    plant.__name__ = name
    return plant


def _as_e4m3(scales: np.ndarray) -> np.ndarray:
    """The e8m0 byte of the number that the byte would be in e4m3."""
    numbers = np.maximum(oracle.decode_e4m3(scales & 0x7F), 2.0**-9)
    return (127 + np.floor(np.log2(numbers))).astype(np.uint8)


def _as_magnitude(scales: np.ndarray) -> np.ndarray:
    """The e8m0 byte of the number that the byte is as an integer."""
    return (127 + np.floor(np.log2(np.maximum(scales, 1)))).astype(np.uint8)


@PITFALLS.row(
    28,
    _wrong_scales("scales_read_as_e4m3", _as_e4m3),
    _wrong_scales("scales_read_as_integers", _as_magnitude),
    _wrong_scales("scales_left_out", lambda scales: np.full_like(scales, 127)),
)
def check_weights_have_the_size_of_weights() -> None:
    with TemporaryDirectory() as folder:
        written(folder)
        model = loaded(Path(folder))
    matrices = [(n, m) for n, m in model.named_modules() if getattr(m, "packing", None)]
    assert len(matrices) > 8
    for name, matrix in matrices:
        weights = values(matrix)
        assert np.abs(weights).max() < 4, name
        assert 1e-3 < np.sqrt(np.mean(weights**2)) < 0.4, name


# --- 43: FP8 by 64 channels, without the rotated ones, scales rounded up --------------------------


def _wrong_fp8(name: str, *, block: int = 64, nope: bool = True, scale=None) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def wrong(x, rope_dims):
            x = formats.round_bf16(x)
            end = x.shape[-1] - (rope_dims if nope else 0)
            return mx.concatenate([formats.fp8_roundtrip(x[..., :end], block), x[..., end:]], -1)

        for module in (qkv_prepare, compress):
            patch.setattr(module, "fp8_kv", wrong)
        if scale is not None:
            patch.setattr(formats, "power_of_two_scale", scale)

    plant.__name__ = name
    return plant


def _nearest_scale(amax: mx.array, limit: float) -> mx.array:
    return mx.power(2.0, mx.round(mx.log2(amax / limit)))


@PITFALLS.row(
    43,
    _wrong_fp8("fp8_by_128_channels", block=128),
    _wrong_fp8("fp8_by_32_channels", block=32),
    _wrong_fp8("fp8_on_the_rotated_dims_too", nope=False),
    _wrong_fp8("scale_rounded_to_nearest", scale=_nearest_scale),
)
def check_latents_are_rounded_like_the_release() -> None:
    """Window and compressed latents whose blocks of 32, 64 and 128 channels differ in size."""
    ops = plan("cpu").ops
    size = np.tile(np.repeat([1, 2e-5, 2e-5, 2e-5], 32), 4)
    x = (np.random.default_rng(0).standard_normal((6, 512)) * size).astype(np.float32)
    cos, sin = mx.ones((6, 32)), mx.zeros((6, 32))
    row, weight = mx.array(np.concatenate([np.ones((6, 4)), x], axis=1)[None]), mx.ones(512)
    plain, rounded = (
        np.array(
            ops.qkv_prepare(row.astype(mx.float32), mx.ones(4), weight, cos, sin, eps=1e-6,
                            official=official, storage="float32")[1], np.float64,
        )
        for official in (False, True)
    )  # fmt: skip
    rows = np.repeat(x, 4, axis=0)
    scores = np.concatenate([0 * rows - 1e9, 0 * rows], axis=1)
    rows = mx.array(np.concatenate([rows, rows, scores], axis=1)[None].astype(np.float32))
    entries = [
        np.array(
            ops.compress(rows, mx.zeros((4, 1024)), weight, cos, sin, origin=0, first_window=0,
                         windows=6, ratio=4, kv_column=0, gate_column=1024, eps=1e-6,
                         rounding=rounding, storage="float32"), np.float64,
        )
        for rounding in ("none", "kv")
    ]  # fmt: skip
    for before, after in ((plain, rounded), entries):
        bf16 = oracle.round_bf16(before)
        np.testing.assert_array_equal(after[..., 448:], bf16[..., 448:])
        np.testing.assert_array_equal(after[..., :448], oracle.fp8_roundtrip(bf16[..., :448], 64))


# --- 44: scales next to powers of two -------------------------------------------------------------


def _scale_of(name: str, exponent) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def wrong(amax, limit):
            ratio = amax * mx.array(1 / limit, mx.float32)
            return mx.power(2.0, exponent(ratio))

        patch.setattr(formats, "power_of_two_scale", wrong)

    plant.__name__ = name
    return plant


@PITFALLS.row(
    44,
    _scale_of("ceil_of_log2_in_float32", lambda ratio: mx.ceil(mx.log2(ratio))),
    _scale_of("floor_plus_one", lambda ratio: mx.floor(mx.log2(ratio)) + 1),
)
def check_scales_around_powers_of_two() -> None:
    """448 * 2^k needs the scale 2^k; the next float32 numbers above it need 2^(k + 1)."""
    k = np.arange(-12, 40)
    exact = (448 * 2.0**k).astype(np.float32)
    scales = np.array(formats.power_of_two_scale(mx.array(exact), 448.0), np.float64)
    np.testing.assert_array_equal(scales, 2.0**k)
    above = (exact.view(np.int32)[:, None] + np.arange(2, 40, dtype=np.int32)).view(np.float32)
    scales = np.array(formats.power_of_two_scale(mx.array(above), 448.0), np.float64)
    expected = oracle.ceil_power_of_two_scale(above, oracle.E4M3_RECIPROCAL)
    np.testing.assert_array_equal(scales, expected)
    assert (expected[:, 1:] == 2.0 ** (k[:, None] + 1)).all()


# --- 45: names of other conversions ---------------------------------------------------------------


def unknown_names_ignored(patch: pytest.MonkeyPatch) -> None:
    def make(place):
        def wrong(expected, entry, target):
            if target is not None:
                place(expected, entry, target)

        return wrong

    wrap(patch, planning, "_place", make)


@PITFALLS.row(45, unknown_names_ignored)
def check_names_of_other_conversions_are_refused_by_name() -> None:
    norm = np.ones(4, np.float32)
    for name in ("layers.0.attn.wo_a.0.weight", "layers.0.ffn.switch_mlp.up_proj.weight"):
        with TemporaryDirectory() as folder:
            written(folder)
            edit_checkpoint(folder, {name: plan_array(name, "F32", norm)})
            assert name in refusal(Path(folder))


def refusal(folder: Path) -> str:
    """What loading says against the folder; nothing when it loads."""
    try:
        loaded(folder)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("check", PITFALLS.checks())
def test_avoided(check: Check) -> None:
    check()


@pytest.mark.parametrize(("check", "mistake"), PITFALLS.planted())
def test_noticed(check: Check, mistake: Plant) -> None:
    expect_notice(check, mistake)
