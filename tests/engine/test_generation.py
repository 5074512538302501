"""Samplers draw from the distribution that mlx-lm's samplers draw from."""

import math

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.engine.generation import (
    RepetitionPenalty,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    make_penalty,
    make_sampler,
)
from dsv4_mlx.engine.logit_changes import LogitChanges
from dsv4_mlx.errors import UsageError


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


def test_top_k_keeps_the_likeliest_and_their_equals() -> None:
    values = mx.array([-1.0, -5.0, -2.0, -3.0, -2.0])
    kept = [(keep_top_k(values, k) > -math.inf).tolist() for k in (1, 2, 4, 5, 1 << 62)]
    assert kept == [
        [True, False, False, False, False],
        [True, False, True, False, True],
        [True, False, True, True, True],
        [True] * 5,
        [True] * 5,
    ]


def test_filtered_tokens_are_never_drawn() -> None:
    values = logprobs(3)
    kept = keep_top_k(keep_min_p(keep_top_p(values, 0.9), 0.05), 5)
    allowed = (kept > -math.inf).tolist()
    assert sum(allowed) == 5
    found = frequencies(make_sampler(2.0, top_p=0.9, min_p=0.05, top_k=5, seed=5), values, 400)
    assert (found > 0).tolist() == allowed


def penalised_ref(logits: np.ndarray, tokens: list[int], penalty: float) -> np.ndarray:
    """transformers' RepetitionPenaltyLogitsProcessor for one row: gather, scale, scatter."""
    ids = np.array(tokens, dtype=np.int64)
    score = logits[ids]
    score = np.where(score < 0, score * np.float32(penalty), score / np.float32(penalty))
    result = logits.copy()
    result[ids] = score
    return result


@pytest.mark.parametrize("penalty", [0.5, 1.05, 1.2, 2.0, 30.0])
@pytest.mark.parametrize("tokens", [[0], [3, 3, 3], [7, 1, 49, 7], list(range(50))])
def test_the_penalty_is_transformers(penalty: float, tokens: list[int]) -> None:
    logits = np.random.default_rng(0).normal(0, 4, 50).astype(np.float32)
    found = RepetitionPenalty(penalty, tokens)(mx.array(logits))
    np.testing.assert_array_equal(np.array(found), penalised_ref(logits, tokens, penalty))


def test_a_token_counts_once_it_is_drawn() -> None:
    logits = np.array([4.0, 3.5, 3.0, -1.0], dtype=np.float32)
    penalty, timeline = LogitChanges([RepetitionPenalty(2.0, [2])]), [2]
    sampler = make_sampler(0.0)
    for _ in range(6):
        expected = int(np.argmax(penalised_ref(logits, timeline, 2.0)))
        drawn: int = penalty.draw(mx.array(logits), sampler).item()  # type: ignore[assignment]
        assert drawn == expected
        timeline.append(drawn)
    assert timeline == [2, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "penalty", [5e-324, 1e-46, 1e-40, 2.0**-126, 1e-30, 1e30, 3.5e38, 1e40, 1.7e308]
)
@pytest.mark.parametrize("tokens", [[0], [1, 2], [0, 1, 2, 3, 4]])
def test_a_penalty_beyond_float32_gives_no_nan(penalty: float, tokens: list[int]) -> None:
    logits = mx.array([80.0, -80.0, 0.0, 1e-30, 3e38])
    repeats = RepetitionPenalty(penalty, tokens)
    assert mx.isfinite(repeats(logits)).all().item()
    changes, sampler = LogitChanges([repeats]), make_sampler(1.0, seed=3, top_p=0.9)
    drawn = [changes.draw(logits, sampler).item() for _ in range(3)]
    assert all(0 <= token < 5 for token in drawn)


def test_a_penalty_of_one_is_none_and_one_out_of_range_a_sentence() -> None:
    assert make_penalty(1.0, [1]) is None
    for value in (0, -1.0, math.inf, math.nan, True):
        with pytest.raises(UsageError, match=r"^repetition_penalty must be a number above 0, got"):
            make_penalty(value, [1])


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
        ({"temperature": -0.1}, "temperature must be a number from 0 on, got -0.1"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p"),
        ({"temperature": 0.0, "min_p": -0.5}, "min_p"),
        ({"temperature": 1.0, "min_p": 2.0}, "min_p must be a number from 0 to 1, got 2.0"),
        ({"temperature": 1.0, "top_k": -1}, "top_k must be a whole number from 0 on, got -1"),
        ({"temperature": 1.0, "top_k": 2.0}, "top_k"),
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
    assert mx.array_equal(
        keep_top_k(values, int(p * 1000)), theirs.apply_top_k(values, int(p * 1000))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 1.0},
        {"temp": 0.6},
        {"top_p": 0.7},
        {"top_k": 3},
        {"temp": 1.3, "top_p": 0.9, "min_p": 0.05},
        {"temp": 1.5, "top_p": 0.95, "min_p": 0.02, "top_k": 4},
    ],
)
def test_draws_equal_mlx_lms_in_distribution(theirs, options: dict[str, float]) -> None:
    values = logprobs(1, size=10)
    mx.random.seed(0)
    reference = theirs.make_sampler(**{"temp": 1.0, **options})
    found_ref = frequencies(lambda x: reference(x[None])[0], values)
    temperature = options.pop("temp", 1.0)
    found = frequencies(make_sampler(temperature, **options, seed=0), values)
    np.testing.assert_allclose(found, found_ref, atol=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_the_penalty_equals_mlx_lms_over_the_whole_context(theirs, penalty: float) -> None:
    logits, tokens = logprobs(2) + 3, [4, 9, 4, 30]
    process = theirs.make_repetition_penalty(penalty, context_size=len(tokens))
    expected = process(mx.array(tokens), mx.array(logits)[None])[0]
    np.testing.assert_array_equal(RepetitionPenalty(penalty, tokens)(logits), expected)
