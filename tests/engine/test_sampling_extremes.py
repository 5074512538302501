"""Whatever the settings of sampling are, a draw is a token that is likely at all, or a sentence."""

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsv4_mlx.engine.generation import make_sampler
from dsv4_mlx.errors import UsageError

EDGES = (5e-324, 1e-320, 1e-46, 1e-45, 1e-40, 2.0**-126, 1e-30, 1e-7, 1e-6, 0.5, 1 - 2**-53, 1.0)


def edge_or(strategy: st.SearchStrategy[float]) -> st.SearchStrategy[float]:
    return st.sampled_from(EDGES) | strategy


SHARES = edge_or(st.floats(0, 1, exclude_min=True))
TEMPERATURES = edge_or(st.floats(0, allow_infinity=False)) | st.sampled_from([1e30, 1e40, 1.7e308])
OPTIONS = st.fixed_dictionaries({"temperature": TEMPERATURES}, optional={"top_p": SHARES,
                                "min_p": SHARES | st.just(0.0)})  # fmt: skip
LOGITS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(OPTIONS, LOGITS, st.integers(0, 2**63 - 1))
@example({"temperature": 1.0, "top_p": 1e-46}, [1.0, 3.0, 2.0], 1)
@example({"temperature": 1e40, "top_p": 0.5}, [0.0, 9.0, 0.0], 1)
@example({"temperature": 1.7e308, "min_p": 1.0}, [0.0, 9.0, 0.0], 1)
def test_a_draw_is_one_of_the_tokens_that_the_filters_keep(
    options: dict[str, float], logits: list[float], seed: int
) -> None:
    values = mx.array(logits, dtype=mx.float32)
    values = values - mx.logsumexp(values)
    sampler = make_sampler(**options, seed=seed)
    drawn = [sampler(values).item() for _ in range(3)]
    assert set(drawn) <= kept(np.array(values, np.float64), **options)


def kept(
    logprobs: np.ndarray, temperature: float, top_p: float = 1.0, min_p: float = 0.0
) -> set[Any]:
    """The tokens that may be drawn, with room for what float32 rounds."""
    order = np.argsort(-logprobs)
    weights = np.exp(logprobs[order])
    # A weight is off by float32's rounding of its logarithm, and a sum by that of each part.
    above = np.cumsum(weights) - weights
    chosen = logprobs >= logprobs[order[max(int((above < top_p * (1 + 1e-4)).sum()) - 1, 0)]] - 1e-4
    if min_p > 0:
        chosen &= logprobs >= logprobs.max() + math.log(min_p) - 1e-4
    return set(np.flatnonzero(chosen).tolist())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["temperature", "top_p", "min_p"]),
    st.sampled_from([math.nan, math.inf, -math.inf, -5e-324, -1.0, 10**400, -(10**400), True])
    | st.floats(max_value=0, exclude_max=True),
)
@example("temperature", 10**400)
def test_a_value_out_of_range_is_a_sentence(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"^{name} must be "):
        make_sampler(**{"temperature": 1.0, name: value})
