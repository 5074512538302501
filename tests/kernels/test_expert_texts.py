"""The texts around the experts' products: swiglu and expert_sum."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.contract import random_normal
from metal_kernels.registry import kernels
from tests.kernels.host import assert_text_matches, host_plan
from tests.kernels.pairwise import pairwise, sizes_id, thinned

pytestmark = pytest.mark.needs("metalhost")

SWIGLU, EXPERT_SUM = kernels()["swiglu"], kernels()["expert_sum"]
SWIGLU_SIZES = pairwise(
    R=[1, 3, 7, 128],
    width=[1, 4, 37, 1028],
    M=[0, 1, 3],
    shared_width=[2, 36, 256],
    weighted=[True, False],
    limit=[10.0, 0.0],
    seed=range(5),
)
SUM_SIZES = pairwise(
    M=[1, 3, 7, 128], k=[1, 3, 6, 8], D=[1, 4, 8, 131, 1032], official=[True, False], seed=range(5)
)


@pytest.mark.parametrize("sizes", thinned(SWIGLU_SIZES))
def test_swiglu_sizes(sizes: dict) -> None:
    R, M, seed = sizes["R"], sizes["M"], sizes["seed"]
    arguments = {
        "gate_up": 8 * random_normal(seed, R, 2 * sizes["width"]),
        "weights": random_normal(seed + 1, R) if sizes["weighted"] else None,
        "shared": 8 * random_normal(seed + 2, M, 2 * sizes["shared_width"]) if M else None,
        "limit": sizes["limit"],
    }
    assert_text_matches(SWIGLU, arguments, sizes_id(sizes), order=seed)


@pytest.mark.parametrize("sizes", thinned(SUM_SIZES))
def test_expert_sum_sizes(sizes: dict) -> None:
    M, k, D, seed = sizes["M"], sizes["k"], sizes["D"], sizes["seed"]
    arguments = {
        "routed": random_normal(seed, M, k, D),
        "shared": random_normal(seed + 1, M, D),
        "official": sizes["official"],
    }
    assert_text_matches(EXPERT_SUM, arguments, sizes_id(sizes), order=seed)


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("limit", [10.0, 0.0])
def test_swiglu_at_the_limits_and_beyond(limit: float, copies: int) -> None:
    """Both signs of every awkward number meet in gate and up; NaN stays where it enters."""
    awkward = [0.0, 1e-30, 1.0, 9.999999, 10.0, 10.000001, 88.0, 200.0, 1e30, np.inf]
    values = np.array([-v for v in awkward] + awkward + [np.nan], np.float32)
    gate, up = (np.repeat(a.ravel(), copies) for a in np.meshgrid(values, values))
    gate_up = mx.array(np.concatenate([gate, up])[None])
    arguments = {"gate_up": gate_up, "weights": None, "shared": None, "limit": limit}
    with host_plan() as plan:
        found = np.array(plan.ops.swiglu(**arguments), np.float64)[0]
    with np.errstate(all="ignore"):
        gate, up = gate.astype(np.float64), up.astype(np.float64)
        if limit:
            gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
        # Float32 between the factors: far below zero the gate's is zero.
        exact = (gate / (1 + np.exp(-gate))).astype(np.float32).astype(np.float64) * up
        exact = np.where(np.abs(exact) > 3.4e38, np.sign(exact) * np.inf, exact)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-36)


def test_expert_sum_keeps_nan_in_its_channel() -> None:
    routed = np.ones((2, 3, 16), np.float32)
    routed[1, 2, 5] = np.nan
    with host_plan() as plan:
        total = plan.ops.expert_sum(mx.array(routed), mx.ones((2, 16)), official=True)
    assert np.argwhere(np.isnan(np.array(total))).tolist() == [[1, 5]]
