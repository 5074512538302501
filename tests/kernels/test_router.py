"""The routers' texts: exact choice with ties, weights, NaN, and scores of large logits."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.contract import ContractError
from metal_kernels.registry import bind, kernels
from tests.kernels.host import assert_text_matches, host_plan
from tests.kernels.pairwise import pairwise, sizes_id, thinned

pytestmark = pytest.mark.needs("metalhost")

ROUTER, HASH_ROUTER = kernels()["router"], kernels()["hash_router"]
SIZES = pairwise(
    M=[1, 3, 7, 128],
    D=[1, 131, 256],
    E=[4, 17, 256, 384, 513],
    k=[1, 6, 16],
    dtype=[mx.bfloat16, mx.float32],
    seed=range(5),
)
HASH_SIZES = pairwise(
    M=[1, 3, 7, 128],
    D=[1, 131, 256],
    E=[16, 17, 256, 384],
    k=[1, 6, 16],
    table=[mx.int32, mx.int64],
    tokens=[mx.int32, mx.uint32, mx.int64],
    seed=range(5),
)


def logits_of(M: int, D: int, E: int, dtype: mx.Dtype, seed: int) -> dict[str, mx.array]:
    """Whole numbers of sixteenths: logits are exact in any order of summation, and many are equal.

    Which expert is chosen then depends on the rule for ties and not on rounding.
    """
    rng = np.random.default_rng(seed)
    x, weight = rng.integers(-4, 5, (M, D)) / 4, rng.integers(-4, 5, (E, D)) / 4
    return {"x": mx.array(x, mx.float32), "weight": mx.array(weight, mx.float32).astype(dtype)}


@pytest.mark.parametrize("sizes", thinned(SIZES))
def test_router_sizes(sizes: dict) -> None:
    k, seed = sizes["k"], sizes["seed"]
    arguments = logits_of(**{name: sizes[name] for name in ("M", "D", "E", "dtype", "seed")})
    bias = mx.array(np.random.default_rng(seed).integers(-2, 3, sizes["E"]) / 2, mx.float32)
    arguments |= {"bias": bias, "k": k, "scaling": 1.5}
    assert_text_matches(ROUTER, arguments, sizes_id(sizes), order=seed)


@pytest.mark.parametrize("sizes", thinned(HASH_SIZES))
def test_hash_router_sizes(sizes: dict) -> None:
    M, E, seed = sizes["M"], sizes["E"], sizes["seed"]
    rng = np.random.default_rng(seed)
    table = np.stack([rng.permutation(E)[: sizes["k"]] for _ in range(97)])
    arguments = logits_of(M, sizes["D"], E, mx.bfloat16, seed) | {
        "table": mx.array(table).astype(sizes["table"]),
        "tokens": mx.array(rng.integers(0, 97, M)).astype(sizes["tokens"]),
        "scaling": 2.5,
    }
    assert_text_matches(HASH_ROUTER, arguments, sizes_id(sizes), order=seed)


def routed(logits: list[float], bias: list[float], k: int) -> tuple[list[int], list[float]]:
    """Experts and weights that the text gives one token with these logits."""
    weight = mx.array(logits, mx.float32)[:, None]
    with host_plan() as plan:
        experts, weights = plan.ops.router(
            mx.ones((1, 1)), weight, mx.array(bias, mx.float32), k=k, scaling=1.0
        )
    return experts[0].tolist(), weights[0].tolist()


@pytest.mark.parametrize("size", [2, 33, 65])
def test_equal_scores_go_to_the_lowest_experts(size: int) -> None:
    experts, weights = routed([0.5] * size, [0.0] * size, 2)
    assert experts == [0, 1]
    assert weights == [0.5, 0.5]


def test_a_tie_at_the_last_place_takes_the_lower_expert() -> None:
    logits = [0.0] * 70
    logits[69], logits[40], logits[8] = 3.0, 1.0, 1.0
    assert routed(logits, [0.0] * 70, 2)[0] == [8, 69]


def test_the_bias_chooses_and_does_not_weigh() -> None:
    experts, weights = routed([1.0, 1.0, 2.0, 1.0], [9.0, 0.0, 0.0, 8.0], 2)
    assert experts == [0, 3]
    assert weights == [0.5, 0.5]


@pytest.mark.parametrize("logit", [-60.0, -30.0, -1.0, 0.0, 1e-4, 1.0, 30.0, 60.0])
def test_scores_are_precise_for_any_logit(logit: float) -> None:
    """A weight is score / (score + score of 0): relative error of float32 at both ends."""
    _, (first, second) = routed([logit, 0.0], [0.0, 0.0], 2)
    exact = np.sqrt(np.logaddexp(0, [logit, 0.0]))
    np.testing.assert_allclose([first, second], exact / exact.sum(), rtol=1e-6)


def test_nan_and_infinite_scores_choose_as_the_reference_does() -> None:
    """NaN everywhere keeps NaN weights; a single NaN or a bias of -inf only drops its expert."""
    nan, infinite = float("nan"), float("inf")
    rows = {
        "one": ([nan, 1.0, 2.0, 3.0, 0.0], [0.0] * 5, 2),
        "few": ([nan, 1.0, nan, 3.0, nan], [0.0] * 5, 4),
        "all": ([nan] * 5, [0.0] * 5, 3),
        "bias": ([1.0] * 5, [-infinite, 0.0, -infinite, 0.0, nan], 3),
        "infinite": ([infinite, 1.0, -infinite, 3.0, 0.0], [0.0] * 5, 2),
        "every": ([1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5, 9),
    }
    for name, (logits, bias, k) in rows.items():
        weight = mx.array(logits, mx.float32)[:, None]
        arguments = {"x": mx.ones((2, 1)), "weight": weight, "bias": mx.array(bias)}
        assert_text_matches(ROUTER, {**arguments, "k": k, "scaling": 1.0}, name)


def test_a_token_with_nan_keeps_its_weights_nan() -> None:
    x = mx.array([[1.0, 2.0], [float("nan"), 1.0], [0.5, 0.5]])
    arguments = {"x": x, "weight": mx.ones((8, 2)), "bias": mx.zeros(8), "k": 3, "scaling": 1.0}
    assert_text_matches(ROUTER, arguments, "nan")
    assert np.isnan(np.array(ROUTER.reference(**arguments)[1]))[:, 0].tolist() == [
        False,
        True,
        False,
    ]


def test_more_choices_than_lanes_are_refused() -> None:
    arguments = logits_of(1, 4, 64, mx.float32, 0)
    with pytest.raises(ContractError, match=r"^router: expected k in 1\.\.32 but found 33"):
        bind("metal").ops.router(**arguments, bias=mx.zeros(64), k=33, scaling=1.0)
