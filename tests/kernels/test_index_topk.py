"""The index's Metal texts on the host: exact scores, exact selection, the same in every tile."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.contract import Call, Case, ContractError, random_normal
from metal_kernels.index_topk import KERNEL, launch
from metal_kernels.index_topk.reference import index_scores
from metal_kernels.registry import bind
from metal_kernels.shared.formats import fp4_roundtrip, load_stored, store
from metal_kernels.shared.selection import exact_top_k
from metal_kernels.sources import zero_d
from tests.kernels.compare import assert_matches
from tests.kernels.host import host_plan
from tests.kernels.pairwise import pairwise, sizes_id, thinned
from tests.kernels.selections import selected

pytestmark = pytest.mark.needs("metalhost")

INFINITE, NAN = float("inf"), float("nan")
STORAGES = ("float32", "bfloat16", "compact")
CASES = [pytest.param(case, id=case.id) for case in KERNEL.cases]


@pytest.fixture(params=["matrices", "fma"])
def text(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both texts of the scores: what CUDA compiles is Metal as well."""
    if request.param == "fma":
        geometry = launch._geometry
        monkeypatch.setattr(launch, "_geometry", lambda _, *sizes: geometry("cuda", *sizes))
    return request.param


def arguments(
    B: int = 1, S: int = 1, H: int = 4, T: int = 129, *, K: int = 32, k: int = 16,
    storage: str = "compact", seed: int = 0, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """Numbers of few bits, which no order of summation rounds; the last query sees every key."""
    q, keys = random_normal(seed, B, S, H, K), random_normal(seed + 1, B, T, K)
    return {
        "index_q": fp4_roundtrip(q),
        "head_weights": mx.round(2 * random_normal(seed + 2, B, S, H)) / 2,
        "keys": store(fp4_roundtrip(keys), storage, "key"),
        "first_position": max(0, 4 * T - S + seed),
        "ratio": 4,
        "k": k,
        "scale": 0.125,
    } | changes  # fmt: skip


def of_sizes(HK: tuple[int, int], **sizes: Any) -> dict[str, Any]:
    return arguments(H=HK[0], K=HK[1], **sizes)


def on_host(given: dict[str, Any], mode: str = "checked", order: str | int = 0) -> mx.array:
    with host_plan(mode, order) as plan:
        return plan.ops.index_topk(**given)


def assert_selects(given: dict[str, Any], mode: str = "checked", order: str | int = 0) -> None:
    assert_matches(KERNEL, on_host(given, mode, order), KERNEL.reference(**given))


@pytest.mark.slow
@pytest.mark.parametrize("text", ["fma"], indirect=True)  # test_metal_texts.py has the other
@pytest.mark.parametrize("case", CASES)
def test_declared_case(case: Case, text: str) -> None:
    assert_selects(case.make(1), order=1)


@pytest.mark.parametrize("case", CASES)
def test_declared_cases_are_exact_in_any_order(case: Case) -> None:
    """All summands of a score, in units of their smallest bit, sum to less than 2^24."""
    given = case.make(5)
    q, weights = np.array(given["index_q"], float), np.array(given["head_weights"], float)
    keys = np.array(load_stored(given["keys"], q.shape[-1], 0, "key"), float)
    unit = smallest_bit(q) * smallest_bit(keys)
    products = np.einsum("bshk,btk->bsht", np.abs(q), np.abs(keys))
    assert products.max() / unit < 2**24
    products = np.maximum(np.einsum("bshk,btk->bsht", q, keys), 0)
    totals = np.einsum("bsh,bsht->bst", np.abs(weights), products)
    assert totals.max() / (unit * smallest_bit(weights)) < 2**24


def smallest_bit(x: np.ndarray) -> float:
    """The largest power of two, at most 1, of which all elements are multiples."""
    return next(b for b in 2.0 ** -np.arange(60) if (x / b == np.round(x / b)).all())


SIZES = pairwise(
    T=[0, 1, 127, 128, 129, 4095], S=[1, 7], B=[1, 3], HK=[(4, 32), (11, 64), (64, 128)],
    storage=STORAGES, k=[1, 16, 200], seed=range(2),
)  # fmt: skip
LARGE_SIZES = pairwise(
    T=[0, 1, 127, 128, 129, 4095], S=[128], B=[1, 3], HK=[(4, 32), (9, 64)],
    storage=STORAGES, k=[1, 200], seed=range(5),
)  # fmt: skip


@pytest.mark.parametrize("sizes", thinned(SIZES))
def test_sizes(sizes: dict[str, Any], text: str) -> None:
    assert_selects(of_sizes(**sizes), order=sizes["seed"])


def test_many_queries(text: str) -> None:
    """A chunk's first queries see nothing, its last see all but the newest entries."""
    given = arguments(B=3, S=128, T=30, k=7) | {"first_position": 0}
    found = on_host(given)
    assert_matches(KERNEL, found, KERNEL.reference(**given))
    assert (found[:, :3] == -1).all() and (found[:, -1] >= 0).all()


@pytest.mark.parametrize("order", ["ascending", "descending", 1])
def test_the_order_of_threads_changes_nothing(order: str | int, text: str) -> None:
    assert_selects(arguments(S=2, T=300, H=12, k=70), order=order)


# --- scores ---------------------------------------------------------------------------------------


def scores_on_host(given: dict[str, Any], queries: tuple[int, int]) -> np.ndarray:
    arrays = {name: given[name] for name in KERNEL.inputs}
    options = {name: given[name] for name in ("ratio", "scale")}
    sizes = KERNEL.check({name: array.shape for name, array in arrays.items()})
    call = Call("index_topk", "metal", arrays, options, sizes, {}, {})
    start, stop = queries
    with host_plan("checked"):
        launched = launch.index_scores(call, start, stop - start)
        return np.array(launched(*arrays.values(), zero_d(given["first_position"]))[0])


def normal_arguments(T: int = 150, S: int = 3, H: int = 20, K: int = 64) -> dict[str, Any]:
    given = arguments(S=S, T=T, H=H, K=K, storage="float32")
    shapes = {name: given[name].shape for name in ("index_q", "head_weights", "keys")}
    return given | {
        name: random_normal(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())
    }


def rounding(given: dict[str, Any]) -> np.ndarray:
    """Bound of the error of any float32 order: (K + H + 2) roundings of the summands' sizes."""
    q, weights = np.abs(np.array(given["index_q"], float)), given["head_weights"]
    keys = np.abs(np.array(given["keys"], float))
    sizes = np.einsum("bshk,btk->bsht", q, keys)
    sizes = np.einsum("bsh,bsht->bst", np.abs(np.array(weights, float)), sizes)
    return (q.shape[-1] + q.shape[-2] + 2) * 2.0**-24 * sizes * given["scale"]


@pytest.mark.parametrize("K", [20, 32, 136])
@pytest.mark.parametrize("H", [1, 8, 33])
def test_scores_are_within_rounding(H: int, K: int, text: str) -> None:
    given = normal_arguments(H=H, K=K)
    exact = np.maximum(
        np.einsum("bshk,btk->bsht", *(np.array(given[n], float) for n in ("index_q", "keys"))), 0
    )
    exact = np.einsum("bsh,bsht->bst", np.array(given["head_weights"], float), exact)
    found, visible = (
        scores_on_host(given, (0, 3)),
        (np.arange(3) + given["first_position"] + 1) // 4,
    )
    for s in range(3):
        error = np.abs(found[:, s] - exact[:, s] * given["scale"])[:, : visible[s]]
        assert (error <= rounding(given)[:, s, : visible[s]]).all()
        assert (found[:, s, visible[s] :] == -INFINITE).all()


def test_a_selection_may_differ_from_the_reference_by_rounding_only(text: str) -> None:
    given = normal_arguments(T=900, H=64, K=128) | {"k": 200}
    found, expected = (np.array(f(given)) for f in (on_host, lambda g: KERNEL.reference(**g)))
    exact = np.array(index_scores(given["index_q"], given["head_weights"], given["keys"]))
    for s in range(3):
        threshold = exact[0, s, expected[0, s]].min() * given["scale"]
        differing = np.setxor1d(found[0, s], expected[0, s])
        distance = np.abs(exact[0, s, differing] * given["scale"] - threshold)
        assert (distance <= 4 * rounding(given)[0, s].max()).all()
        assert len(found[0, s]) == 200 and (np.diff(found[0, s]) > 0).all()


def test_scores_depend_on_neither_tile_nor_chunk(text: str) -> None:
    """Bit for bit: one query alone, many together, equal keys anywhere, many keys or few."""
    given = normal_arguments()
    period = given["keys"][:, :37]
    given["keys"] = mx.concatenate([period] * 5, axis=1)[:, :150]
    together = scores_on_host(given | {"first_position": 4000}, (0, 3))
    for s in range(3):
        alone = scores_on_host(given | {"first_position": 4000}, (s, s + 1))
        np.testing.assert_array_equal(alone[:, 0], together[:, s])
        np.testing.assert_array_equal(together[0, s, :37], together[0, s, 74:111])
    few = scores_on_host(given | {"keys": period, "first_position": 4000}, (0, 3))
    np.testing.assert_array_equal(few, together[..., :37])


def test_a_large_call_uses_larger_threadgroups_with_the_same_scores() -> None:
    small, large = (launch._geometry("metal", 128, work) for work in (launch.FEW_SCORES, 1 << 20))
    assert small[0] == large[0] and small[3] == large[3]
    assert 2 * small[1] == large[1] and 2 * small[2] == large[2]
    given = arguments(T=5000, S=4, H=4, k=40)
    assert_selects(given)


@pytest.mark.parametrize("storage", STORAGES)
def test_nan_keys_are_never_selected(storage: str, text: str) -> None:
    given = arguments(T=130, k=130, H=9)
    keys = np.array(load_stored(given["keys"], 32, 0, "key"))
    keys[0, [0, 5, 129]] = NAN
    given["keys"] = store(mx.array(keys), storage, "key")
    assert_selects(given)
    assert np.intersect1d(np.array(on_host(given)), [0, 5, 129]).size == 0


@pytest.mark.parametrize("name", ["index_q", "head_weights"])
def test_a_nan_in_a_query_selects_nothing_for_it_alone(name: str, text: str) -> None:
    given = arguments(S=2, T=40, H=9)
    broken = np.array(given[name])
    broken[(0, 1, 3, 0)[: broken.ndim]] = NAN
    given[name] = mx.array(broken)
    assert_selects(given)
    found = np.array(on_host(given))
    assert (found[0, 1] == -1).all() and (found[0, 0] >= 0).all()


def test_infinite_keys_and_weights(text: str) -> None:
    given = arguments(T=60, k=20, H=9, storage="float32")
    keys, weights = np.array(given["keys"]), np.array(given["head_weights"])
    keys[0, 7], keys[0, 9, 0], weights[0, 0, 2] = INFINITE, -INFINITE, -INFINITE
    assert_selects(given | {"keys": mx.array(keys)})
    assert_selects(given | {"head_weights": mx.array(weights)})


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_equal_scores_select_the_first(value: float, text: str) -> None:
    given = arguments(S=3, T=150, k=60)
    given["keys"] = store(mx.full((1, 150, 32), value), "compact", "key")
    assert_selects(given)
    assert on_host(given)[0, 2].tolist() == list(range(60))


def test_every_key_visible_to_none(text: str) -> None:
    assert (on_host(arguments(S=2, T=140) | {"first_position": 0}) == -1).all()


# --- selection ------------------------------------------------------------------------------------


def assert_top_k(scores: np.ndarray, *counts: int, mode: str = "checked", order: int = 0) -> None:
    scores = mx.array(scores.astype(np.float32))
    for k in counts:
        with host_plan(mode, order):
            found = selected("metal", scores, min(k, scores.shape[-1]))
        np.testing.assert_array_equal(np.array(found), np.array(exact_top_k(scores, k)), f"{k = }")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("T", [1, 2, 31, 32, 33, 255, 256, 257, 1000])
def test_selection_of_any_length(T: int) -> None:
    for seed in range(2):
        assert_top_k(random(1, 2, T, seed=seed), 1, 2, T // 2 + 1, T - 1 or 1, T, order=seed)


@pytest.mark.parametrize("seed", range(5))
def test_selection_among_ties(seed: int) -> None:
    assert_top_k(np.round(random(1, 2, 600, seed=seed)), 1, 64, 300, 599, order=seed)
    assert_top_k(np.maximum(random(1, 2, 600, seed=seed) - 1, 0), 30, 200)


def test_selection_of_special_scores() -> None:
    scores = random(6, 1, 100)
    scores[0, :, ::2], scores[1, :, 30:], scores[2] = NAN, -INFINITE, NAN
    scores[3, :, ::3], scores[3, :, 1::3] = -0.0, 0.0
    scores[4, :, ::5], scores[4, :, 1::5] = INFINITE, 3e38
    scores[5, :, :50], scores[5, :, 50:] = -3.4e38, -1e-37
    assert_top_k(scores, 1, 20, 40, 60, 99, 100)


@pytest.mark.parametrize("shift", [0, 8, 16, 22])
def test_scores_that_differ_in_one_digit_only(shift: int) -> None:
    """Of 8 bits, on both sides of zero; the boundary falls on every digit and between two."""
    digits = np.random.default_rng(shift).permutation(np.arange(500) % 250).astype(np.uint32)
    scores = (np.uint32(0x3F800000) + (digits << np.uint32(shift))).view(np.float32)
    assert_top_k(np.stack([scores, -scores])[:, None], 1, 2, 3, 250, 251, 498, 499, order=shift)


@pytest.mark.parametrize("part", [37, 64, 1000])
def test_a_selection_in_two_steps_is_exact(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long rows are selected from in parts; ties at a part's edge go to the earlier part."""
    monkeypatch.setattr(launch, "part", lambda: part)
    for scores in (random(1, 2, 1001), np.round(random(1, 2, 1001)), np.zeros((1, 2, 1001))):
        assert_top_k(scores, 1, 50, 200, 1001)
    nothing = np.where(np.arange(1001) < 70, random(1, 1, 1001), -INFINITE)
    assert_top_k(nothing, 20, 71, 500)


def test_more_keys_than_a_thread_keeps_in_registers() -> None:
    assert_top_k(np.round(random(1, 1, 5000) * 50), 40, mode="fast")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "part", lambda: 1 << 16)
        assert_top_k(np.round(random(1, 1, 40_000) * 50), 2048, mode="fast")


# --- launches -------------------------------------------------------------------------------------


def launches(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> list[str]:
    """Names of the texts that a call launches, and their outputs' bytes within the limit."""
    names: list[str] = []

    def prepare_nothing(backend, name, *, outputs, **_):
        ((shape, dtype),) = outputs.values()
        assert np.prod(shape) * dtype.size <= launch.SCORE_BYTES

        def launch_nothing(*arrays):
            names.append(name)
            return [mx.zeros(shape, dtype)]

        return launch_nothing

    monkeypatch.setattr(launch, "Prepared", prepare_nothing)
    found = bind("metal").ops.index_topk(**given)
    assert found.shape == (*given["index_q"].shape[:2], min(given["k"], given["keys"].shape[1]))
    return names


@pytest.mark.parametrize(
    ("T", "count"), [(0, 0), (1, 2), (2048, 2), (16_384, 2), (16_385, 3), (262_144, 3)]
)
def test_decode_launches(T: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(T=1, k=2048) | {"keys": mx.zeros((1, T, 17), mx.uint8)}
    assert len(launches(monkeypatch, given)) == count


def test_scores_of_a_prompt_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(B=2, S=50, T=1, k=512) | {"keys": mx.zeros((2, 262_144, 17), mx.uint8)}
    assert launches(monkeypatch, given).count("index_scores") == 4


def test_tiles_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(B=2, S=7, T=90)
    monkeypatch.setattr(launch, "SCORE_BYTES", 2 * 2 * 90 * 4)
    assert_selects(given)


def test_keys_of_another_width_are_refused() -> None:
    given = arguments(K=64) | {"keys": mx.zeros((1, 129, 17), mx.uint8)}
    with pytest.raises(ContractError) as error:
        bind("metal").ops.index_topk(**given)
    assert str(error.value) == (
        "index_topk: expected keys as [1 T R] with rows of 64 mlx.core.float32 (float32), "
        "64 mlx.core.bfloat16 (bfloat16), 34 mlx.core.uint8 (compact) but found (1, 129, 17) "
        "mlx.core.uint8."
    )
    with pytest.raises(
        ContractError, match=r"expected B = 1 in keys .* found shape \(2, 129, 17\)"
    ):
        bind("metal").ops.index_topk(**arguments() | {"keys": mx.zeros((2, 129, 17), mx.uint8)})
    with pytest.raises(ContractError, match=r"expected H = 4 in head_weights \[B S H\]"):
        bind("metal").ops.index_topk(**arguments() | {"head_weights": mx.zeros((1, 1, 5))})


# --- long contexts --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sizes", LARGE_SIZES, ids=sizes_id)
def test_large_chunks(sizes: dict[str, Any]) -> None:
    assert_selects(of_sizes(**sizes), order=sizes["seed"])


def test_a_context_of_250_000_tokens() -> None:
    assert_selects(arguments(T=62_500, k=512))


@pytest.mark.slow
@pytest.mark.parametrize("k", [512, 2048])
@pytest.mark.parametrize("T", [62_500, 262_144])
def test_long_context(T: int, k: int, text: str) -> None:
    assert_selects(arguments(T=T, k=k))


@pytest.mark.slow
def test_the_release_at_a_million_tokens(text: str) -> None:
    """64 heads of 128 dims: too many accesses to check each."""
    assert_selects(arguments(T=262_144, H=64, K=128, k=512, scale=2.0**-6), mode="fast")
