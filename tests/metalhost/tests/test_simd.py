"""Every simdgroup operation against a model of it in numpy, lane by lane."""

import mlx.core as mx
import numpy as np
import pytest

from tests.metalhost import MetalHostError
from tests.metalhost.tests.support import launch, numbers, values

pytestmark = pytest.mark.needs("metalhost")

FOLDS = ["simd_sum", "simd_product", "simd_min", "simd_max"]
SCANS = [
    f"simd_prefix_{kind}_{op}" for kind in ("inclusive", "exclusive") for op in ("sum", "product")
]
BITS = ["simd_and", "simd_or", "simd_xor"]
FLOATS = [mx.float32, mx.float16, mx.bfloat16]
INTEGERS = [mx.int8, mx.uint8, mx.int16, mx.uint16, mx.int32, mx.uint32]
UFUNCS = {
    "sum": np.add,
    "product": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
ORDERS = ["ascending", "descending", 1, 2]


def model(operation: str, lanes: np.ndarray) -> np.ndarray:
    """What each lane gets: the ascending xor butterfly, or a running total."""
    *_, how, name = f"_{operation}".split("_")
    combine = UFUNCS[name]
    if how in ("inclusive", "exclusive"):
        return running(combine, lanes, exclusive=how == "exclusive")
    for distance in (1, 2, 4, 8, 16):
        lanes = combine(lanes, lanes[np.arange(32) ^ distance])
    return lanes


def running(combine: np.ufunc, lanes: np.ndarray, *, exclusive: bool) -> np.ndarray:
    total = lanes.dtype.type(combine.identity)
    found = np.empty_like(lanes)
    for i, value in enumerate(lanes):
        found[i] = total
        total = combine(total, value)
        if not exclusive:
            found[i] = total
    return found


def all_operations(names: list[str]) -> str:
    """Output row r holds operation r of every lane."""
    calls = [f"out[{r} * 64 + i] = {name}(a[i]);" for r, name in enumerate(names)]
    return "\n".join(["uint i = thread_position_in_grid.x;", *calls])


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS, ids=str)
def test_folds_and_scans_of_two_simdgroups(dtype):
    names = FOLDS + SCANS + ([] if dtype in FLOATS else BITS)
    a = numbers((64,), dtype)
    (out,) = launch(
        all_operations(names), {"a": a}, {"out": ((len(names), 64), dtype)}, threads=64, order=5
    )
    with np.errstate(over="ignore"):
        for row, name in zip(values(out), names, strict=True):
            expected = np.concatenate([model(name, values(a)[s : s + 32]) for s in (0, 32)])
            if dtype == mx.bfloat16:
                expected = values(mx.array(expected).astype(mx.bfloat16))
            np.testing.assert_array_equal(row, expected, err_msg=name)


@pytest.mark.parametrize("order", ORDERS)
def test_order_of_lanes_does_not_show(order):
    a = numbers((64,), mx.float32)
    source = all_operations(FOLDS + SCANS)
    outputs = {"out": ((8, 64), mx.float32)}
    (expected,) = launch(source, {"a": a}, outputs, threads=64)
    (out,) = launch(source, {"a": a}, outputs, threads=64, order=order, mode="fast")
    assert mx.array_equal(out, expected)


def test_vectors_fold_by_component():
    a = numbers((32, 4), mx.float32)
    source = "auto v = (const device float4*)a; ((device float4*)out)[thread_position_in_grid.x] ="
    (out,) = launch(
        f"{source} simd_max(v[thread_position_in_grid.x]);",
        {"a": a},
        {"out": ((32, 4), mx.float32)},
    )
    np.testing.assert_array_equal(values(out), np.tile(values(a).max(0), (32, 1)))


def test_lanes_that_do_not_exist_take_no_part():
    (out,) = launch(
        "uint i = thread_position_in_grid.x;\nout[i] = simd_sum(float(i)) + simd_min(float(i));",
        threads=40,
    )
    expected = [sum(range(32))] * 32 + [sum(range(32, 40)) + 32] * 8
    assert out.flatten().tolist() == expected


MOVES = {
    "simd_shuffle(v, (lane * 7 + 3) % 32)": lambda n: (n * 7 + 3) % 32,
    "simd_shuffle_xor(v, 5)": lambda n: n ^ 5,
    "simd_shuffle_up(v, 3)": lambda n: n - 3 if n >= 3 else n,
    "simd_shuffle_down(v, 3)": lambda n: n + 3 if n + 3 < 32 else n,
    "simd_shuffle_rotate_up(v, 3)": lambda n: (n - 3) % 32,
    "simd_shuffle_rotate_down(v, 3)": lambda n: (n + 3) % 32,
    "simd_broadcast(v, 17)": lambda n: 17,
    "simd_broadcast_first(v)": lambda n: 0,
    "simd_shuffle_and_fill_down(v, w, 3)": lambda n: n + 3 if n + 3 < 32 else 100 + (n + 3) % 32,
    "simd_shuffle_and_fill_up(v, w, 3)": lambda n: n - 3 if n >= 3 else 100 + (n - 3) % 32,
    "simd_shuffle_and_fill_down(v, w, 3, 8)": lambda n: (
        n + 3 if n % 8 + 3 < 8 else 100 + n // 8 * 8 + (n + 3) % 8
    ),
    "simd_shuffle_and_fill_up(v, w, 3, 8)": lambda n: (
        n - 3 if n % 8 >= 3 else 100 + n // 8 * 8 + (n - 3) % 8
    ),
}


@pytest.mark.parametrize("kind", ["uchar", "half", "bfloat", "int", "float4"])
def test_moves_of_every_size(kind):
    header = """
    template <typename V> uint number(V v) { return uint(v); }
    uint number(float4 v) { return v.x == v.w ? uint(v.y) : 999; }
    """
    lines = [
        f"uint lane = thread_index_in_simdgroup;\n{kind} v = {kind}(lane), w = {kind}(lane + 100);"
    ]
    lines += [f"out[{r * 32} + lane] = number({call});" for r, call in enumerate(MOVES)]
    outputs = {"out": ((len(MOVES), 32), mx.uint32)}
    (out,) = launch("\n".join(lines), {}, outputs, header=header, order=3)
    for row, (call, source) in zip(values(out), MOVES.items(), strict=True):
        assert row.tolist() == [source(lane) for lane in range(32)], call


@pytest.mark.parametrize("kind", ["long", "ulong", "bool"])
def test_mlx_moves_wide_integers_and_bools_by_four_operations(kind):
    calls = [
        "simd_shuffle(v, (lane * 7 + 3) % 32)",
        "simd_shuffle_up(v, 3)",
        "simd_shuffle_down(v, 3)",
        "simd_shuffle_and_fill_up(v, w, 3)",
    ]
    value = "lane % 3 == 0" if kind == "bool" else f"({kind}(lane) << 40) + lane"
    lines = [f"uint lane = thread_index_in_simdgroup; {kind} v = {value}, w = 0;"]
    lines += [f"out[{32 * r} + lane] = {call};" for r, call in enumerate(calls)]
    dtype = {"bool": mx.bool_, "long": mx.int64, "ulong": mx.uint64}[kind]
    (out,) = launch("\n".join(lines), {}, {"out": ((4, 32), dtype)}, order=2)
    n = np.arange(32)
    v = n % 3 == 0 if kind == "bool" else (n << 40) + n
    for row, call in zip(values(out), calls, strict=True):
        source = np.array([MOVES[call](lane) for lane in n])
        filled = source >= 100  # by w
        assert row.tolist() == np.where(filled, 0, v[source % 100 % 32]).tolist(), call


def test_votes():
    source = """
    uint lane = thread_index_in_simdgroup;
    bool odd = lane % 2 != 0;
    out[lane] = uint(ulong(simd_ballot(odd)));
    out[32 + lane] = simd_any(lane == 3) + 2 * simd_any(lane == 99);
    out[64 + lane] = simd_all(lane < 32) + 2 * simd_all(odd);
    out[96 + lane] = uint(ulong(simd_active_threads_mask()));
    out[128 + lane] = simd_is_first();
    out[160 + lane] = simd_ballot(true).all() + 2 * simd_ballot(false).any();
    """
    (out,) = launch(source, {}, {"out": ((6, 32), mx.uint32)})
    first = [1] + [0] * 31
    expected = [[0xAAAAAAAA] * 32, [1] * 32, [1] * 32, [0xFFFFFFFF] * 32, first, [1] * 32]
    assert out.tolist() == expected


def test_a_shuffle_from_a_missing_lane_is_named():
    with pytest.raises(MetalHostError, match=r"body:1.*simd_shuffle with 9, which is a lane"):
        launch("out[thread_position_in_grid.x] = simd_shuffle(1.0f, 9);", threads=8)
