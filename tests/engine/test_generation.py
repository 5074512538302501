"""Samplers draw from the distribution that mlx-lm's samplers draw from."""

import math

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import UsageError
from dsv4_mlx.generation import keep_min_p, keep_top_p, make_sampler


def logprobs(seed: int = 0, size: int = 50, spread: float = 2.0) -> mx.array:
    logits = spread * mx.random.normal((size,), key=mx.random.key(seed))
    return logits - mx.logsumexp(logits)


def frequencies(sampler, values: mx.array, draws: int = 4000) -> np.ndarray:
    drawn = mx.stack([sampler(values) for _ in range(draws)])
    return np.bincount(np.array(drawn), minlength=values.size) / draws


def test_temperature_zero_is_greedy_and_takes_the_lowest_of_equals() -> None:
    sampler = make_sampler(0.0, top_p=0.5, seed=1)
    assert sampler(mx.array([-3.0, -1.0, -1.0, -2.0])).item() == 1


def test_draws_follow_the_tempered_distribution() -> None:
    values = logprobs(size=8, spread=1.0)
    wanted = mx.softmax(values / 0.7).tolist()
    found = frequencies(make_sampler(0.7, seed=0), values)
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    values = mx.log(mx.array([0.5, 0.05, 0.3, 0.15]))
    kept = [keep_top_p(values, p) > -math.inf for p in (0.4, 0.5, 0.6, 0.9, 0.97)]
    assert [k.tolist() for k in kept] == [
        [True, False, False, False],
        [True, False, False, False],
        [True, False, True, False],
        [True, False, True, True],
        [True, True, True, True],
    ]


def test_min_p_is_relative_to_the_likeliest() -> None:
    values = mx.log(mx.array([0.5, 0.05, 0.3, 0.15]))
    kept = keep_min_p(values, 0.25) > -math.inf
    assert kept.tolist() == [True, False, True, True]


def test_filtered_tokens_are_never_drawn() -> None:
    values = logprobs(3)
    allowed = (keep_min_p(keep_top_p(values, 0.8), 0.1) > -math.inf).tolist()
    found = frequencies(make_sampler(2.0, top_p=0.8, min_p=0.1, seed=5), values)
    assert (found > 0).tolist() == allowed


def test_seeds() -> None:
    values = logprobs()

    def draws(seed: int | None) -> list[int]:
        sampler = make_sampler(1.0, seed=seed)
        return [sampler(values).item() for _ in range(30)]

    assert draws(4) == draws(4)
    assert len({tuple(draws(seed)) for seed in (4, 5, None, None)}) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p"),
        ({"temperature": 0.0, "min_p": -0.5}, "min_p"),
        ({"temperature": 1.0, "min_p": 2.0}, "min_p"),
    ],
)
def test_options_out_of_range(options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_sampler(**options)


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("mlx_lm.sample_utils")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
def test_filters_equal_mlx_lms(theirs, seed: int, p: float) -> None:
    values = logprobs(seed, size=1000, spread=3.0)
    assert mx.array_equal(keep_top_p(values, p), theirs.apply_top_p(values, p))
    assert mx.array_equal(keep_min_p(values, p), theirs.apply_min_p(values, p))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("temperature", "top_p", "min_p"),
    [(1.0, 1.0, 0.0), (0.6, 1.0, 0.0), (1.0, 0.7, 0.0), (1.3, 0.9, 0.05)],
)
def test_draws_equal_mlx_lms_in_distribution(theirs, temperature, top_p, min_p) -> None:
    values = logprobs(1, size=10)
    mx.random.seed(0)
    reference = theirs.make_sampler(temp=temperature, top_p=top_p, min_p=min_p)
    found_ref = frequencies(lambda x: reference(x[None])[0], values)
    found = frequencies(make_sampler(temperature, top_p, min_p, seed=0), values)
    np.testing.assert_allclose(found, found_ref, atol=0.04)
