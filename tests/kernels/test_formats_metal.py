"""formats.metal against formats.py: every code, ties and boundaries, and rows written and read."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.shared import formats
from metal_kernels.sources import SHARED, included
from tests.metalhost import checking, metal_kernel

pytestmark = pytest.mark.needs("metalhost")

LANES = (SHARED / "lanes.metal").read_text(encoding="utf-8")
HEADER = "\n".join(included("lanes.metal", LANES).values())
LATENTS = [(512, 64), (192, 64), (64, 64), (160, 32), (66, 2), (100, 36)]
KEYS = [32, 64, 128]


def ran(source: str, outputs: dict[str, tuple[tuple[int, ...], mx.Dtype]], **inputs: mx.array):
    """The outputs of statements that every thread of `outputs`' first size runs, `i` its number."""
    kernel = metal_kernel(
        name="formats", input_names=list(inputs), output_names=list(outputs), header=HEADER,
        source=f"uint i = thread_position_in_grid.x;\n{source}",
    )  # fmt: skip
    shapes, dtypes = zip(*outputs.values(), strict=True)
    count = shapes[0][0]
    with checking(mode="checked", order="ascending"):
        return kernel(
            inputs=list(inputs.values()), output_shapes=list(shapes), output_dtypes=list(dtypes),
            grid=(count, 1, 1), threadgroup=(min(count, 256), 1, 1),
        )  # fmt: skip


def same(found: mx.array, expected: mx.array) -> None:
    """Equal values, signs of zeros, and NaN."""
    a, b = np.array(found.astype(mx.float32)), np.array(expected.astype(mx.float32))
    np.testing.assert_array_equal(a, b)
    known = ~np.isnan(b)
    np.testing.assert_array_equal(np.signbit(a[known]), np.signbit(b[known]))


def numbers() -> mx.array:
    """Both signs of every exponent: ties of bf16, e4m3 and e2m1, and what lies beside them."""
    coarse = np.arange(1 << 13, dtype=np.uint32) << 19  # half a step of e4m3 at least
    fine = np.arange(0, 1 << 32, 1_000_003, dtype=np.uint64).astype(np.uint32)
    ties = (fine & 0xFFFF0000) | 0x8000
    bits = [coarse, coarse + 1, coarse[1:] - 1, fine, ties, ties + 1, ties - 1]
    return mx.array(np.concatenate(bits).view(np.float32))


def test_bf16_rounds_as_the_reference_does() -> None:
    x = numbers()
    (found,) = ran("y[i] = round_bf16(x[i]);", {"y": (x.shape, mx.float32)}, x=x)
    same(found, formats.round_bf16(x))


def test_codes_are_the_reference_s() -> None:
    x = numbers()
    outputs = {"e4m3": (x.shape, mx.float32), "e2m1": (x.shape, mx.float32)}
    source = "e4m3[i] = from_e4m3(to_e4m3(x[i])); e2m1[i] = from_e2m1(to_e2m1(x[i]));"
    e4m3, e2m1 = ran(source, outputs, x=x)
    same(e4m3, mx.from_fp8(mx.to_fp8(x), mx.float32))
    known = np.flatnonzero(~np.isnan(np.array(x)))  # FP4 has no NaN: its scale says so
    same(e2m1[mx.array(known)], formats.round_e2m1(x[mx.array(known)]))


def test_scales_are_the_reference_s() -> None:
    x = numbers()
    outputs = {"fp8": (x.shape, mx.uint32), "fp4": (x.shape, mx.uint32)}
    source = "fp8[i] = fp8_scale(magnitude_bits(x[i])); fp4[i] = fp4_scale(magnitude_bits(x[i]));"
    fp8, fp4 = ran(source, outputs, x=x)
    blocks = x[:, None, None]
    same(formats.e8m0_to_float(fp8), formats._fp8_scale(blocks).reshape(-1))
    same(formats.e8m0_to_float(fp4), formats._fp4_scale(blocks).reshape(-1))


def test_every_code_and_every_scale() -> None:
    codes = mx.arange(256).astype(mx.uint8)
    outputs = {name: ((256,), mx.float32) for name in ("e4m3", "e8m0", "low", "high", "inverse")}
    source = """
    e4m3[i] = from_e4m3(codes[i]);
    e8m0[i] = from_e8m0(codes[i]);
    low[i] = from_e2m1(codes[i]);
    high[i] = from_e2m1(codes[i] >> 4);
    inverse[i] = inverse_e8m0(codes[i]);
    """
    e4m3, e8m0, low, high, inverse = ran(source, outputs, codes=codes)
    same(e4m3, mx.from_fp8(codes, mx.float32))
    same(e8m0, formats.e8m0_to_float(codes))
    same(mx.stack([low, high], axis=1), formats._e2m1_table())
    same(inverse[1:254], 1 / formats.e8m0_to_float(codes[1:254]))


def rows(width: int, seed: int) -> mx.array:
    """Rows of any size, one with NaN and infinity."""
    x = np.random.default_rng(seed).standard_normal((20, width))
    x *= np.geomspace(1e-9, 1e9, 20)[:, None]
    x[3, width // 3], x[4, width - 1] = np.nan, np.inf
    return mx.array(x.astype(np.float32))


def check_rows(rounded: mx.array, storage: str, kind: str, rope_dims: int) -> None:
    """Read what the reference stores; write, then let the reference read."""
    count, width = rounded.shape
    size, dtype = formats.row_shape(storage, kind, width, rope_dims)
    stored = formats.store(rounded, storage, kind, rope_dims)
    load = f"load_{kind}(stored + i * SIZE, dim, WIDTH{', ROPE' * (kind == 'latent')})"
    (read,) = run_rows(
        f"for (uint dim = 0; dim < WIDTH; dim++) y[i * WIDTH + dim] = {load};",
        (count, width), mx.float32, width, rope_dims, size, dtype, stored=stored,
    )  # fmt: skip
    same(read, rounded)
    rope, scale = (", ROPE", "fp8") if kind == "latent" else ("", "fp4")
    block = formats.FP8_KV_BLOCK if kind == "latent" else formats.FP4_BLOCK
    (written,) = run_rows(
        f"""for (uint block = 0; block < WIDTH; block += {block}) {{
          uint amax = 0, end = min(block + {block}, uint(WIDTH));
          for (uint d = block; d < end; d++)
            if (d < WIDTH - ROPE) amax = max(amax, magnitude_bits(x[i * WIDTH + d]));
          for (uint d = block; d < end; d += 2)
            store_{kind}_pair<Stored>(y + i * SIZE, d, WIDTH{rope}, x[i * WIDTH + d],
                x[i * WIDTH + d + 1], {scale}_scale(amax));
        }}""",
        (count, size), dtype, width, rope_dims, size, dtype, x=rounded,
    )  # fmt: skip
    same(formats.load_stored(written, width, rope_dims, kind), rounded)
    if storage == "compact":
        assert mx.array_equal(written, stored)


def run_rows(
    source: str,
    shape: tuple[int, int],
    output: mx.Dtype,
    width: int,
    rope_dims: int,
    size: int,
    element: mx.Dtype,
    **inputs: Any,
) -> list[mx.array]:
    names = {mx.uint8: "uchar", mx.bfloat16: "bfloat", mx.float32: "float"}
    sizes = f"constexpr uint WIDTH = {width}, ROPE = {rope_dims}, SIZE = {size};"
    aliases = f"using Stored = {names[element]};\n{sizes}\n"
    return ran(aliases + source, {"y": (shape, output)}, **inputs)


@pytest.mark.parametrize(
    ("width", "rope_dims", "storage"),
    [
        *((*latent, "compact") for latent in LATENTS),
        *((512, 64, storage) for storage in ("float32", "bfloat16")),
        *((100, 36, storage) for storage in ("float32", "bfloat16")),
    ],
)
def test_latents_are_read_and_written_as_the_reference_does(
    width: int, rope_dims: int, storage: str
) -> None:
    check_rows(formats.fp8_kv(rows(width, width), rope_dims), storage, "latent", rope_dims)


@pytest.mark.parametrize(
    ("width", "storage"),
    [*((width, "compact") for width in KEYS), (64, "float32"), (64, "bfloat16")],
)
def test_keys_are_read_and_written_as_the_reference_does(width: int, storage: str) -> None:
    check_rows(formats.hadamard_fp4(rows(width, width)), storage, "key", 0)
