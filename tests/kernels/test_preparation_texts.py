"""The texts before attention: qkv_prepare, q_prepare and compress, and where sizes meet."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.contract import ContractError, random_normal
from metal_kernels.registry import bind, kernels
from metal_kernels.shared.formats import load_stored
from tests.kernels.host import assert_text_matches, host_plan
from tests.kernels.pairwise import pairwise, sizes_id, thinned

pytestmark = pytest.mark.needs("metalhost")

QKV, Q, COMPRESS = (kernels()[name] for name in ("qkv_prepare", "q_prepare", "compress"))
# Rounded or not, and how rows are stored: bytes hold rounded rows only.
FORMS = [
    (True, "compact"),
    (True, "float32"),
    (True, "bfloat16"),
    (False, "float32"),
    (False, "bfloat16"),
]
NAN, INFINITY = float("nan"), float("inf")
AWKWARD = [NAN, INFINITY, -INFINITY, 0.0, 1e-30, -1e-7, 1e8, 3e30]

# Every width and form is a text compiled anew: the plain suite has the awkward ones.
SOME_FORMS = [(True, "compact"), (True, "float32"), (False, "bfloat16")]


def sizes_of(few: dict[str, list[Any]], **axes: Any) -> list[Any]:
    """All sizes pair by pair for the slow suite; some of a `few` choices for the plain one."""
    every = pairwise(**axes, seed=range(5))
    some = pairwise(**{**axes, **few}, seed=range(5))
    return thinned(some) + [
        pytest.param(sizes, id=sizes_id(sizes), marks=pytest.mark.slow)
        for sizes in every
        if sizes not in some
    ]


QKV_SIZES = sizes_of(
    {"width": [(512, 32), (66, 1), (32, 8)], "form": SOME_FORMS},
    B=[1, 3],
    S=[1, 7, 128],
    L=[1, 33, 256],
    width=[(512, 32), (192, 32), (160, 16), (64, 32), (66, 1), (32, 8)],
    form=FORMS,
)
Q_SIZES = sizes_of(
    {"width": [32, 160, 512], "index": [(0, 0), (4, 32), (9, 128)]},
    B=[1, 3],
    S=[1, 7, 128],
    heads=[1, 4, 9],
    width=[32, 64, 96, 160, 512],
    index=[(0, 0), (4, 32), (1, 64), (9, 128), (2, 256)],
    P=[1, 8, 16],
    official=[True, False],
)
CSA_SIZES = sizes_of(
    {"width": [(512, 32), (66, 1)], "form": SOME_FORMS},
    B=[1, 3],
    windows=[1, 2, 7],
    first=[0, 1, 1000],
    width=[(512, 32), (192, 32), (64, 32), (66, 1), (32, 8)],
    spare_rows=[0, 3, 8],
    shift=[0, 5],
    columns=["side by side", "within others"],
    form=FORMS,
)
HCA_SIZES = sizes_of(
    {"width": [(512, 32), (96, 8)], "form": SOME_FORMS[::2]},
    B=[1, 2],
    windows=[1, 3],
    first=[0, 9],
    width=[(512, 32), (192, 32), (64, 32), (96, 8), (32, 8)],
    spare_rows=[0, 129],
    shift=[0, 77],
    form=FORMS,
)
KEY_SIZES = sizes_of(
    {"width": [(128, 32), (32, 8)], "form": SOME_FORMS[:2]},
    B=[1, 3],
    windows=[1, 5],
    first=[0, 3],
    width=[(32, 8), (64, 32), (128, 32), (256, 1)],
    spare_rows=[0, 5],
    shift=[0, 3],
    form=FORMS[:4],
)


def tables(seed: int, rows: int, P: int) -> dict[str, mx.array]:
    angles = 10 * random_normal(seed, rows, P)
    return {"cos": mx.cos(angles), "sin": mx.sin(angles)}


def qkv(seed: int, B: int, S: int, L: int, K: int, P: int, form: tuple[bool, str]) -> dict:
    return {
        "projected": 3 * random_normal(seed, B, S, L + K),
        "q_norm_weight": 1 + 0.1 * random_normal(seed + 1, L),
        "kv_norm_weight": (1 + 0.1 * random_normal(seed + 2, K)).astype(mx.bfloat16),
        **tables(seed + 3, S, P),
        "eps": 1e-6,
        "official": form[0],
        "storage": form[1],
    }


@pytest.mark.parametrize("sizes", QKV_SIZES)
def test_qkv_prepare_sizes(sizes: dict) -> None:
    K, P = sizes["width"]
    S = sizes["S"] if K < 512 else min(sizes["S"], 7)
    arguments = qkv(sizes["seed"], sizes["B"], S, sizes["L"], K, P, sizes["form"])
    assert_text_matches(QKV, arguments, sizes_id(sizes), order=sizes["seed"])


@pytest.mark.parametrize("sizes", Q_SIZES)
def test_q_prepare_sizes(sizes: dict) -> None:
    seed, heads, (index_heads, index_width) = sizes["seed"], sizes["heads"], sizes["index"]
    columns = heads * sizes["width"] + index_heads * index_width
    arguments = {
        "projected": random_normal(seed, sizes["B"], sizes["S"], columns),
        **tables(seed + 1, sizes["S"], sizes["P"]),
        "heads": heads,
        "width": sizes["width"],
        "index_heads": index_heads,
        "index_width": index_width,
        "eps": 1e-6,
        "official": sizes["official"],
    }
    assert_text_matches(Q, arguments, sizes_id(sizes), order=seed)


def windows_of(
    sizes: dict, ratio: int, rounding: str, kv_column: int = 0, gate_column: int | None = None
) -> dict[str, Any]:
    """Arguments whose rows lie in a ring that holds what the windows need and `spare_rows` more."""
    seed, first, windows = sizes["seed"], sizes["first"], sizes["windows"]
    d, P = sizes["width"]
    c, earlier = (2 * d, min(first, 1)) if ratio == 4 else (d, 0)
    n = (windows + earlier) * ratio + sizes["spare_rows"]
    gate_column = c if gate_column is None else gate_column
    return {
        "rows": random_normal(seed, sizes["B"], n, max(kv_column, gate_column) + c + kv_column),
        "bias": random_normal(seed + 1, ratio, c),
        "norm_weight": (1 + 0.1 * random_normal(seed + 2, d)).astype(mx.bfloat16),
        **tables(seed + 3, windows, P),
        "origin": sizes.get("shift", 0),
        "first_window": first,
        "windows": windows,
        "ratio": ratio,
        "kv_column": kv_column,
        "gate_column": gate_column,
        "eps": 1e-6,
        "rounding": rounding if sizes["form"][0] else "none",
        "storage": sizes["form"][1],
    }


@pytest.mark.parametrize("sizes", CSA_SIZES)
def test_compress_sizes_with_overlap(sizes: dict) -> None:
    d = sizes["width"][0]
    columns = (0, 2 * d) if sizes["columns"] == "side by side" else (2 * d + 3, 1)
    arguments = windows_of(sizes, 4, "kv", *columns)
    assert_text_matches(COMPRESS, arguments, sizes_id(sizes), order=sizes["seed"])


@pytest.mark.parametrize("sizes", HCA_SIZES)
def test_compress_sizes_without_overlap(sizes: dict) -> None:
    arguments = windows_of(sizes, 128, "kv")
    assert_text_matches(COMPRESS, arguments, sizes_id(sizes), order=sizes["seed"])


MANY_WINDOWS = pairwise(
    windows=[0, 127, 128, 129, 4095], B=[1, 3], kind=[("kv", 0), ("index", 3)], seed=range(5)
)


@pytest.mark.parametrize("sizes", thinned(MANY_WINDOWS))
def test_compress_many_windows_at_once(sizes: dict) -> None:
    """As many as a long prompt closes in one call, in a ring that holds no row more."""
    rounding, first = sizes["kind"]
    sizes = {**sizes, "first": first, "width": (32, 8), "spare_rows": 0, "shift": 5}
    arguments = windows_of({**sizes, "form": (True, "compact")}, 4, rounding)
    assert_text_matches(COMPRESS, arguments, sizes_id(sizes), order=sizes["seed"])


@pytest.mark.parametrize("sizes", KEY_SIZES)
def test_compress_sizes_of_index_keys(sizes: dict) -> None:
    arguments = windows_of(sizes, 4, "index")
    assert_text_matches(COMPRESS, arguments, sizes_id(sizes), order=sizes["seed"])


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "compact"])
def test_awkward_numbers_reach_the_stored_rows_as_the_reference_has_them(storage: str) -> None:
    """One awkward number per token, in the residual, before RoPE, in a rotated dim."""
    arguments = qkv(0, 1, 3 * len(AWKWARD), 40, 192, 32, (True, storage))
    projected = np.array(arguments["projected"])
    for i, (number, column) in enumerate((a, c) for c in (7, 40 + 70, 40 + 150) for a in AWKWARD):
        projected[0, i, column] = number
    arguments["projected"] = mx.array(projected)
    assert_text_matches(QKV, arguments, storage)
    with host_plan() as plan:
        residual, kv = plan.ops.qkv_prepare(**arguments)
    count = len(AWKWARD)
    kv = np.array(load_stored(kv, 192, 64, "latent"))[0].reshape(3, count, 192)
    residual = np.array(residual)[0].reshape(3, count, 40)
    assert np.isnan(residual).sum(axis=-1)[0].tolist() == [40, 1, 1] + [0] * (count - 3)
    assert np.isnan(kv).sum(axis=-1)[1].tolist() == [192, 64, 64] + [0] * (count - 3)
    assert np.isnan(kv).sum(axis=-1)[2].tolist() == [192, 2, 2] + [0] * (count - 3)


@pytest.mark.parametrize("size", [1e-20, 1e-6, 1e6, 1e18])
@pytest.mark.parametrize("form", FORMS[:2])
def test_rows_of_any_size(size: float, form: tuple[bool, str]) -> None:
    arguments = qkv(1, 1, 2, 24, 96, 8, form)
    arguments["projected"] = size * arguments["projected"]
    assert_text_matches(QKV, arguments, f"{size}")
    sizes = {"seed": 1, "B": 1, "first": 1, "windows": 2, "spare_rows": 0, "form": form}
    for ratio, rounding, width in ((4, "kv", 66), (4, "index", 32), (128, "kv", 96)):
        arguments = windows_of({**sizes, "width": (width, 1)}, ratio, rounding)
        arguments["rows"] = size * arguments["rows"]
        assert_text_matches(COMPRESS, arguments, f"{size}")


def test_awkward_numbers_in_heads() -> None:
    for official in (True, False):
        projected = np.array(random_normal(0, 1, 2 * len(AWKWARD), 2 * 64 + 2 * 64))
        for i, number in enumerate(AWKWARD):
            projected[0, i, 70] = number
            projected[0, len(AWKWARD) + i, 128 + 3] = number
        arguments = {
            "projected": mx.array(projected),
            **tables(1, 2 * len(AWKWARD), 8),
            "heads": 2,
            "width": 64,
            "index_heads": 2,
            "index_width": 64,
            "eps": 1e-6,
            "official": official,
        }
        assert_text_matches(Q, arguments, f"official {official}")


@pytest.mark.parametrize("ratio", [4, 128])
@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY, 90.0, -1e30, 1e30])
@pytest.mark.parametrize("quarter", range(4))
def test_awkward_scores_and_latents(ratio: int, number: float, quarter: int) -> None:
    """In the first lane or the second, latent or score, of one token of a window."""
    sizes = {
        "seed": 2,
        "B": 1,
        "first": 3,
        "windows": 2,
        "spare_rows": 2,
        "form": (True, "compact"),
    }
    width = (66, 1) if ratio == 4 else (96, 8)
    arguments = windows_of({**sizes, "width": width}, ratio, "kv")
    rows = np.array(arguments["rows"])
    rows[0, 9, quarter * rows.shape[-1] // 4 + 3] = number
    arguments["rows"] = mx.array(rows)
    assert_text_matches(COMPRESS, arguments, f"{number} in quarter {quarter}")


@pytest.mark.parametrize("ratio", [4, 128])
def test_a_chunk_of_scores_of_minus_infinity_weighs_nothing(ratio: int) -> None:
    """Its slots come first, and then there is no largest score yet; a channel of nothing is NaN."""
    sizes = {"seed": 3, "B": 1, "first": 1, "windows": 1, "spare_rows": 0}
    width = (66, 1) if ratio == 4 else (96, 8)
    arguments = windows_of({**sizes, "width": width, "form": (False, "bfloat16")}, ratio, "none")
    rows = np.array(arguments["rows"])
    gate = arguments["gate_column"]
    rows[0, : ratio // 2, gate:] = -INFINITY
    arguments["rows"] = mx.array(rows)
    assert_text_matches(COMPRESS, arguments, "half")
    rows[0, :, gate + 5 :] = -INFINITY
    arguments["rows"] = mx.array(rows)
    assert_text_matches(COMPRESS, arguments, "all")


@pytest.mark.parametrize("kernel", [QKV, COMPRESS], ids=lambda kernel: kernel.name)
def test_values_do_not_depend_on_the_storage(kernel) -> None:
    """Rounded rows are the same numbers in float32, in bf16 and in bytes."""
    arguments = kernel.cases[0].make(5)
    width, kind = (512, "latent")
    with host_plan("fast") as plan:
        found = [
            getattr(plan.ops, kernel.name)(**{**arguments, "storage": storage})
            for storage in ("float32", "bfloat16", "compact")
        ]
    rows = [result[1] if isinstance(result, tuple) else result for result in found]
    plain, *others = (load_stored(row, width, 64, kind) for row in rows)
    assert all(mx.array_equal(plain, other) for other in others)


def test_no_windows_launch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in COMPRESS.cases if case.id == "csa-nothing-closes")
    monkeypatch.setattr("metal_kernels.sources.built", None)
    entries = bind("metal").ops.compress(**{**case.make(0), "storage": "compact"})
    assert entries.shape == (1, 0, 64 + 128 + 1) and entries.dtype == mx.uint8


def refused(kernel, message: str, **changes: Any) -> None:
    arguments = {**kernel.cases[0].make(0), **changes}
    with pytest.raises(ContractError, match=message):
        getattr(bind("metal").ops, kernel.name)(**arguments)


def test_sizes_that_no_text_can_read_are_refused() -> None:
    refused(QKV, r"projected as \[B, S, 1024 \+ 512\]", projected=mx.zeros((1, 1, 1535)))
    refused(QKV, "even K of at most 2048 but found 511",
            projected=mx.zeros((1, 1, 1535)), kv_norm_weight=mx.zeros(511))  # fmt: skip
    refused(QKV, "at most 256 pairs for 512 dims but found 300",
            cos=mx.zeros((1, 300)), sin=mx.zeros((1, 300)))  # fmt: skip
    refused(Q, "expected 63 heads of 512 and 64 of 128", heads=63)
    refused(Q, "power of two but found 96 dims",
            index_width=96, projected=mx.zeros((1, 1, 64 * 512 + 64 * 96)))  # fmt: skip
    refused(COMPRESS, "the rows of 3 windows of 4 but found 9 rows", first_window=1)
    refused(COMPRESS, "within 2048 columns", gate_column=1025)
    refused(COMPRESS, r"expected bias \[8, 512 or 1024\]", ratio=8)
    refused(COMPRESS, "even d of at most 2048", bias=mx.zeros((4, 6)), norm_weight=mx.zeros(3),
            cos=mx.zeros((2, 1)), sin=mx.zeros((2, 1)))  # fmt: skip
