"""Attention over rings and stored rows: the reference's promises, and the Metal texts' sameness."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels.sparse_attention.launch as launch
import metal_kernels.sparse_attention.reference as reference
from metal_kernels.contract import Case, ContractError
from metal_kernels.formats import fp8_kv, load_stored, store
from metal_kernels.registry import kernels
from metal_kernels.sparse_attention import sparse_attention
from tests.kernels.float64_kernels import FLOAT64, Rounding, float64
from tests.kernels.host import host_plan
from tests.kernels.pairwise import pairwise, sizes_id

pytestmark = pytest.mark.needs("metalhost")

KERNEL = kernels()["sparse_attention"]
STORAGES = ("float32", "bfloat16", "compact")
# A single key weighs 1, which needs no rounding.
ROUNDED = [case for case in KERNEL.cases if case.make(0)["official"] and "first" not in case.id]
NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def stored(storage: str, pairs: int, *shape: int, seed: int = 0) -> mx.array:
    rows = normal(*shape, seed=seed)
    rows = rows if storage == "float32" else fp8_kv(rows, 2 * pairs)
    return store(rows, storage, "latent", 2 * pairs)


def call(
    S: int = 1,
    H: int = 4,
    K: int = 64,
    T: int = 0,
    B: int = 1,
    *,
    storage: str = "float32",
    select: bool = False,
    first: int | None = None,
    phase: int = 0,
    spare: int = 0,
    W: int = 24,
    pairs: int = 16,
    most: int = 9,
    official: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments of a call: ratio 4, every entry visible to the last query when `first` is None.

    The window has `spare` rows more than queries reach, and position 0 is at index `phase`. Of the
    entries `most` are selected, with holes where a query does not see them yet.
    """
    first = max(0, 4 * T - S) if first is None else first
    n = min(first, W - 1) + S + spare
    selected = None
    if select:
        order = mx.argsort(normal(B, S, T, seed=seed + 6), axis=-1)[..., :most].astype(mx.int32)
        visible = (mx.arange(first, first + S) + 1) // 4
        selected = mx.where((order < visible[:, None]) & (order % 5 != 3), order, -1)
    angles = normal(S, pairs, seed=seed + 3)
    return {
        "q": normal(B, S, H, K, seed=seed),
        "window": stored(storage, pairs, B, n, K, seed=seed + 1),
        "sinks": normal(H, seed=seed + 2),
        "cos": mx.cos(angles),
        "sin": mx.sin(angles),
        "entries": stored(storage, pairs, B, T, K, seed=seed + 5),
        "selected": selected,
        "first_position": first,
        "origin": -phase,
        "ratio": 4,
        "sliding_window": W,
        "official": official,
    }


def index_of(arguments: dict[str, Any], position: int) -> int:
    return (position - arguments["origin"]) % arguments["window"].shape[1]


def finite(output: mx.array) -> np.ndarray:
    assert not np.isnan(np.array(output)).any()
    return np.array(output)


# --- What the reference promises ------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("S", [1, 3])
def test_a_ring_at_every_phase_is_the_same_window(storage: str, S: int) -> None:
    ordered = call(S, T=3, storage=storage, first=40, W=6, spare=2, official=False)
    n = ordered["window"].shape[1]
    ordered["origin"] = 40 + S - n
    expected = np.array(sparse_attention(**ordered))
    for phase in range(n):
        places = [(p + phase) % n for p in range(40 + S - n, 40 + S)]
        ring = {**ordered, "window": mx.zeros_like(ordered["window"]), "origin": -phase}
        ring["window"][:, mx.array(places)] = ordered["window"]
        np.testing.assert_array_equal(np.array(sparse_attention(**ring)), expected)


@pytest.mark.parametrize("select", [False, True])
def test_storages_of_the_same_values_are_the_same(select: bool) -> None:
    compact = call(5, K=192, T=40, B=2, storage="compact", select=select)
    expected = np.array(sparse_attention(**compact))
    for storage in ("float32", "bfloat16"):
        rows = {
            name: store(load_stored(compact[name], 192, 32, "latent"), storage, "latent", 32)
            for name in ("window", "entries")
        }
        found = sparse_attention(**{**compact, **rows})
        np.testing.assert_array_equal(np.array(found), expected)


def poisoned(arguments: dict[str, Any]) -> dict[str, Any]:
    """NaN in everything that no query of the call sees: old rows, later and unselected entries."""
    first, S = arguments["first_position"], arguments["q"].shape[1]
    last, n = first + S - 1, arguments["window"].shape[1]
    window, entries = mx.array(arguments["window"]), mx.array(arguments["entries"])
    bad = 0xFF if window.dtype == mx.uint8 else NAN
    seen = range(max(0, first - arguments["sliding_window"] + 1), last + 1)
    unseen = set(range(n)) - {index_of(arguments, p) for p in seen}
    for index in unseen:
        window[:, index] = bad
    B, T = entries.shape[:2]
    for row in range(B):
        used = range((last + 1) // 4)
        if arguments["selected"] is not None:
            used = set(np.array(arguments["selected"][row]).ravel().tolist())
        for index in set(range(T)) - set(used):
            entries[row, index] = bad
    return {**arguments, "window": window, "entries": entries}


UNSEEN = [
    dict(S=S, T=23, B=B, storage=storage, select=select, first=50 + 17 * B, spare=9, phase=5)
    for S, B, storage, select in [
        (1, 1, "compact", True), (1, 3, "float32", True), (3, 1, "bfloat16", False),
        (3, 3, "compact", True), (1, 1, "float32", False), (7, 1, "compact", False),
    ]
]  # fmt: skip


@pytest.mark.parametrize("sizes", UNSEEN, ids=sizes_id)
def test_nan_in_what_nobody_sees_reaches_nobody(sizes: dict[str, Any]) -> None:
    arguments = call(**sizes, seed=4)
    expected = finite(sparse_attention(**arguments))
    np.testing.assert_array_equal(finite(sparse_attention(**poisoned(arguments))), expected)


def test_nan_in_a_selected_entry_reaches_its_queries_alone() -> None:
    arguments = call(4, T=9, select=True, most=3)
    chosen = np.array(arguments["selected"])[0]
    victim = next(e for e in chosen.ravel() if e >= 0)
    arguments["entries"][:, int(victim)] = NAN
    broken = np.isnan(np.array(sparse_attention(**arguments))[0]).all(axis=(1, 2))
    np.testing.assert_array_equal(broken, (chosen == victim).any(axis=1))


def test_gradients_flow_to_queries_rows_entries_and_sinks() -> None:
    arguments = call(3, T=5, select=True, first=20, official=False)
    names = ("q", "window", "sinks", "entries")

    def total(*arrays: mx.array) -> mx.array:
        return (
            sparse_attention(**{**arguments, **dict(zip(names, arrays, strict=True))})
            .square()
            .sum()
        )

    gradients = mx.grad(total, argnums=range(4))(*(arguments[name] for name in names))
    for name, gradient in zip(names, gradients, strict=True):
        direction = normal(*gradient.shape, seed=9)
        sides = [
            total(*(arguments[n] + (step * direction if n == name else 0) for n in names))
            for step in (1e-2, -1e-2)
        ]
        slope = (sides[0] - sides[1]).item() / 2e-2
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=2e-2, abs=2e-3), name


def nmse(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sum((found - expected) ** 2) / np.sum(expected**2))


def assert_is_attention(
    found: mx.array, arguments: dict[str, Any], powers_of_two: bool = False
) -> None:
    """The float64 result, up to roundings that a nudge of 3e-6 decides the other way.

    Weights and outputs lie on bf16's grid, and one that rounds the other way is 2^-7 off. Those
    that float32 may decide so are among those of the two nudges, each of them all at once.
    """
    numbers = float64(arguments)
    exact, *nudged = (
        FLOAT64["sparse_attention"](numbers, Rounding(nudge, powers_of_two))[0]
        for nudge in (0, -1, 1)
    )
    undecided = sum(nmse(result, exact) for result in nudged)
    assert found.shape == exact.shape and found.dtype == mx.float32
    assert nmse(np.array(found, np.float64), exact) <= 1e-10 + 2 * undecided


@pytest.mark.parametrize("case", KERNEL.cases, ids=lambda case: case.id)
def test_the_reference_is_the_float64_result(case: Case) -> None:
    arguments = case.make(7)
    assert_is_attention(sparse_attention(**arguments), arguments)


@pytest.mark.parametrize("case", ROUNDED, ids=lambda case: case.id)
def test_weights_that_are_not_rounded_are_noticed(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, attend = case.make(7), reference.attend
    monkeypatch.setattr(reference, "attend", lambda *a, official: attend(*a, official=False))
    with pytest.raises(AssertionError):
        assert_is_attention(sparse_attention(**arguments), arguments)


# --- The Metal texts on the host ------------------------------------------------------------------


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
        pytest.param(sizes, id=sizes_id(sizes), marks=pytest.mark.slow if heavy(sizes) else ())
        for sizes in [*COVER, *SEED_COVER]
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


def test_splits_cover_the_keys_and_fill_a_gpu() -> None:
    for keys in (1, 7, 8, 9, 31, 128, 129, 640, 1152, 8320, 262_144):
        for threadgroups in (1, 4, 8, 28, 161, 100_000):
            splits, each = launch._splits(keys, threadgroups)
            assert each % 8 == 0 and (splits - 1) * each < keys <= splits * each
            assert splits == 1 or (splits * threadgroups <= 160 and keys / splits >= 31)
    assert launch._splits(640, 4) == (20, 32)
    assert launch._splits(8320, 4) == (40, 208)


@pytest.mark.parametrize("K", [4, 66, 516])
def test_metal_refuses_widths_it_was_not_written_for(K: int) -> None:
    words = f"expected a head_dim of 8 to 512 that 4 divides but found {K}; run the reference"
    with pytest.raises(ContractError, match=words):
        run(call(K=K, pairs=1))


@pytest.mark.parametrize("storage", STORAGES)
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
