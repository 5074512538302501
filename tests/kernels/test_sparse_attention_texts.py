"""Attention's Metal texts on the host: both give what the reference promises."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels.sparse_attention.launch as launch
from metal_kernels import sources
from metal_kernels.contract import ContractError
from metal_kernels.shared.formats import load_stored
from metal_kernels.sparse_attention import sparse_attention
from tests.kernels.attention_calls import (
    NAN,
    STORAGES,
    UNSEEN,
    assert_is_attention,
    call,
    finite,
    nmse,
    poisoned,
)
from tests.kernels.host import host_plan
from tests.kernels.pairwise import pairwise, sizes_id, thinned

pytestmark = pytest.mark.needs("metalhost")


def test_the_next_tile_is_loaded_before_this_one_is_worked_on() -> None:
    """A lane's index two tiles ahead and its row's start one ahead, between use and products."""
    text = (sources.ROOT / "sparse_attention" / "sparse_attention_matrix.metal").read_text()
    loop = text.partition("start += TILE) {")[2]
    steps = (
        "run = latent_run<BLOCKS, WIDTH, ROPE>(run_begin",
        "run_begin = run_start<WIDTH, ROPE>(stored",
        "after = index_of_key<ENTRIES>(key + TILE",
        "simdgroup_multiply_accumulate(",
    )
    places = [loop.find(step) for step in steps]
    assert min(places) >= 0 and places == sorted(places)


def run(arguments: dict[str, Any], matrix: bool = True, order: int = 0) -> mx.array:
    """On the host in checked mode; `matrix` False takes the text that also CUDA compiles."""
    own = launch._text
    with host_plan(order=order) as plan, pytest.MonkeyPatch.context() as patch:
        if not matrix:
            patch.setattr(launch, "_text", lambda backend, K, H: own("cuda", K, H))
        return plan.ops.sparse_attention(**arguments)


def check(arguments: dict[str, Any], matrix: bool = True, order: int = 0) -> None:
    assert_is_attention(run(arguments, matrix, order), arguments, powers_of_two=True)


BOTH_TEXTS = pytest.mark.parametrize("matrix", [True, False], ids=["matrix", "plain"])


def seen_at_most(count: int, sizes: dict[str, Any]) -> int:
    """A first position from which the last query sees at most that many entries."""
    return max(0, 4 * min(sizes["T"], count) - sizes["S"])


def heavy(sizes: dict[str, Any]) -> bool:
    """Whether the host's products of 128 dims, or the float64 scores, take seconds."""
    queries = sizes["B"] * sizes["S"] * sizes["H"]
    return queries * -(-sizes["K"] // 128) > 4000 or queries * sizes["T"] > 4_000_000


COVER = pairwise(
    T=[0, 1, 127, 128, 129, 4095], S=[1, 7, 128], B=[1, 3], K=[64, 128, 512], H=[4, 64, 128],
    storage=STORAGES, select=[False, True], spare=[0, 9], matrix=[True, False],
)  # fmt: skip

# Few and narrow heads, for which every length may meet every seed.
SEED_COVER = pairwise(
    T=[0, 1, 127, 128, 129, 4095], S=[1, 7, 128], B=[1, 3], K=[64], H=[4], storage=STORAGES,
    select=[False, True], matrix=[True, False], seed=range(5),
)  # fmt: skip


@pytest.mark.parametrize(
    "sizes",
    [
        *thinned([sizes for sizes in COVER if not heavy(sizes)]),
        *(
            pytest.param(sizes, id=sizes_id(sizes), marks=pytest.mark.slow)
            for sizes in [*filter(heavy, COVER), *SEED_COVER]
        ),
    ],
)
def test_metal_sizes(sizes: dict[str, Any]) -> None:
    everything = (sizes["S"] * sizes["B"] == 1 and sizes["K"] < 512) or sizes["select"]
    first = seen_at_most(4095 if everything else 30, sizes)
    options = {name: value for name, value in sizes.items() if name != "matrix"}
    pairs = 16 if sizes["K"] < 512 else 32
    # So many keys that one query has them in splits.
    keys = {"W": 40, "most": 29, "first": first, "phase": 3 * sizes["S"], "pairs": pairs}
    check(call(**options, **keys), sizes["matrix"], order=sizes.get("seed", 0))


@pytest.mark.parametrize("seed", range(5))
@BOTH_TEXTS
def test_metal_seeds(matrix: bool, seed: int) -> None:
    sizes = {"S": 2 + seed, "H": 5, "K": 96, "T": 60, "B": 1 + seed % 2, "pairs": 8}
    check(call(**sizes, storage=STORAGES[seed % 3], select=True, seed=seed), matrix, order=seed)


@BOTH_TEXTS
def test_metal_decodes_every_code(matrix: bool) -> None:
    """One key is the output: 448 dims of all 254 codes of e4m3, then bf16 patterns."""
    arguments = call(1, K=512, pairs=32, storage="compact", official=False)
    codes = np.resize([c for c in range(256) if c & 0x7F != 0x7F], 448)
    patterns = np.random.default_rng(0).integers(0x0100, 0x7F00, 64).astype(np.uint16)
    scales = [30, 64, 100, 110, 127, 130, 200]
    row = np.concatenate([codes, patterns.view(np.uint8), scales]).astype(np.uint8)
    arguments["window"] = mx.array(row)[None, None]
    arguments["q"] = mx.zeros((1, 1, 4, 512))
    arguments.update(cos=mx.ones((1, 32)), sin=mx.zeros((1, 32)), sinks=mx.full((4,), -mx.inf))
    expected = np.array(load_stored(arguments["window"], 512, 64, "latent"))[0, 0]
    found = np.array(run(arguments, matrix))[0, 0]
    np.testing.assert_array_equal(found, np.tile(expected, (4, 1)))


@pytest.mark.parametrize("phase", range(0, 11))
@BOTH_TEXTS
def test_metal_rings(matrix: bool, phase: int) -> None:
    check(call(3, 2, T=7, storage="compact", first=40, W=6, spare=3, phase=phase), matrix)


@pytest.mark.parametrize("spare", [-1, -20])
@BOTH_TEXTS
def test_metal_window_that_ends_before_the_queries_reach(matrix: bool, spare: int) -> None:
    check(call(3, 2, T=2, storage="compact", first=40, spare=spare), matrix)


@pytest.mark.parametrize("sizes", UNSEEN, ids=sizes_id)
@BOTH_TEXTS
def test_metal_nan_in_what_nobody_sees_reaches_nobody(matrix: bool, sizes: dict[str, Any]) -> None:
    arguments = poisoned(call(**sizes, seed=4))
    finite(run(arguments, matrix))
    check(arguments, matrix)


@pytest.mark.parametrize("name", ["q", "sinks", "entries"])
@BOTH_TEXTS
def test_metal_nan_stands_where_the_reference_has_it(matrix: bool, name: str) -> None:
    arguments = call(3, H=5, T=9, select=True, most=3)
    where = (0, 1, 2, 7) if name == "q" else (3,) if name == "sinks" else (0, 2, 7)
    arguments[name][where] = NAN
    found = np.isnan(np.array(run(arguments, matrix)))
    np.testing.assert_array_equal(found, np.isnan(np.array(sparse_attention(**arguments))))
    assert found.any() and not found.all()


@pytest.mark.parametrize("S", [1, 60])  # in splits, and in one launch
@pytest.mark.parametrize(("sink", "share"), [(1e4, 0.0), (60.0, 0.0), (-float("inf"), 1.0)])
@BOTH_TEXTS
def test_metal_sinks(matrix: bool, S: int, sink: float, share: float) -> None:
    """All keys hold the same value, of which a large sink leaves nothing."""
    arguments = call(S, T=40, official=False)
    for name in ("window", "entries"):
        arguments[name] = mx.ones_like(arguments[name])
    arguments.update(cos=mx.ones((S, 16)), sin=mx.zeros((S, 16)), sinks=mx.full((4,), sink))
    np.testing.assert_allclose(np.array(run(arguments, matrix)), share, atol=1e-5)


@BOTH_TEXTS
def test_metal_scores_of_any_size(matrix: bool) -> None:
    """Exponents far from zero, and growing from tile to tile and from split to split."""
    for size in (1e-3, 30.0, 3e3):
        arguments = call(2, T=90, official=False, W=70)
        arguments["q"] = arguments["q"] * size
        arguments["entries"] = arguments["entries"] * mx.linspace(0.1, 2, 90)[:, None]
        expected = np.array(sparse_attention(**arguments))
        # A score of `size` is exact to 2^-24 of it.
        np.testing.assert_allclose(
            np.array(run(arguments, matrix)), expected, atol=1e-5 + 1e-6 * size
        )


@pytest.mark.parametrize("S", [1, 60])
@BOTH_TEXTS
def test_metal_small_weights_add_up(matrix: bool, S: int) -> None:
    """Rows of weight e^-9, 13 binary orders below the entries that come after them."""
    arguments = call(S, T=20, W=70, official=False)
    for name, dim in (("window", 1), ("entries", 0)):
        arguments[name] = mx.broadcast_to(mx.eye(64)[dim], arguments[name].shape)
    arguments["q"] = mx.broadcast_to(9 * 64**0.5 * mx.eye(64)[0], arguments["q"].shape)
    arguments["sinks"] = mx.full((4,), -float("inf"))
    entries = (arguments["first_position"] + np.arange(S) + 1) // 4
    rows = np.minimum(arguments["first_position"] + np.arange(S) + 1, 70)
    expected = rows / (rows + entries * np.exp(9))
    found = np.array(run(arguments, matrix))[0, :, :, 1]
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 4, axis=1), rtol=1e-5)


@pytest.mark.parametrize("S", [1, 60])
@BOTH_TEXTS
def test_metal_scores_far_below_zero(matrix: bool, S: int) -> None:
    """Keys of score -150 and a sink one above: weights that float32 has not, but as ratios."""
    arguments = call(S, T=20, W=70, first=200, official=False)
    for name in ("window", "entries"):
        arguments[name] = mx.broadcast_to(mx.eye(64)[0], arguments[name].shape)
    arguments["q"] = mx.broadcast_to(-150 * 64**0.5 * mx.eye(64)[0], arguments["q"].shape)
    arguments["sinks"] = mx.full((4,), -149.0)
    found = np.array(run(arguments, matrix))[..., 0]
    np.testing.assert_allclose(found, 90 / (90 + np.e), rtol=1e-4)


@BOTH_TEXTS
def test_metal_splits_change_nothing(matrix: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights round alike in one launch and in splits: no score of theirs is computed anew."""
    arguments = call(1, 20, 128, 200, storage="compact", select=True, most=150)
    results = []
    for threadgroups in (1, 8, 1000):
        monkeypatch.setattr(launch, "_THREADGROUPS", threadgroups)
        results.append(np.array(run(arguments, matrix), np.float64))
    for result in results[1:]:
        # Sums in another order may round outputs the other way, and nothing else differs.
        assert nmse(result, results[0]) < 1e-7
        assert np.mean(result == results[0]) > 0.99


def test_splits_fill_a_gpu_and_none_is_short() -> None:
    for keys in (1, 7, 8, 9, 31, 128, 129, 640, 1152, 8320, 262_144):
        for threadgroups in (1, 4, 8, 28, 161, 100_000):
            splits = launch._splits(keys, threadgroups)
            assert splits == 1 or (splits * threadgroups <= 160 and keys // splits >= 32)
    assert (launch._splits(640, 4), launch._splits(8320, 4)) == (20, 40)


@pytest.mark.parametrize("K", [4, 66, 516])
def test_metal_refuses_widths_it_was_not_written_for(K: int) -> None:
    words = f"expected a head_dim of 8 to 512 that 4 divides but found {K}; run the reference"
    with pytest.raises(ContractError, match=words):
        run(call(K=K, pairs=1))


@pytest.mark.parametrize(
    "storage",
    [pytest.param(one, marks=[pytest.mark.slow] * (one != "compact")) for one in STORAGES],
)
@BOTH_TEXTS
def test_metal_narrowest_heads_have_a_window_of_one_row(matrix: bool, storage: str) -> None:
    """Smaller arrays would be constant for the texts, whose rows and queries are device."""
    check(call(1, H=1, K=8, T=1, first=4, W=1, pairs=1, storage=storage), matrix)


@pytest.mark.slow
@pytest.mark.parametrize("T", [62_500, 262_144])
@pytest.mark.parametrize("select", [False, True])
@BOTH_TEXTS
def test_metal_long_contexts(matrix: bool, T: int, select: bool) -> None:
    check(
        call(
            1,
            4,
            32,
            T,
            storage="compact",
            select=select,
            pairs=8,
            W=128,
            spare=5,
            phase=2,
            most=512,
        )
    )
