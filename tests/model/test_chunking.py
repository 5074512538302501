"""However a text is cut into calls and batches, the model says the same about it."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.cache import LayerCache, LayerState
from dsv4_mlx.model.v4 import Model
from tests.model import running, small
from tests.oracle import v4_numpy

LENGTH = 140  # past the first window of 128, by some of 4
CLOSE = 5e-5  # float32 sums of other shapes; logits have a standard deviation near one
TOKENS = small.TOKENS[:LENGTH]
CONFIG = small.config(
    num_hidden_layers=4, compress_ratios=[0, 4, 128, 4, 0], sliding_window=10, index_topk=8
)


@pytest.fixture(scope="module")
def model() -> Model:
    return small.model(CONFIG, small.weights(CONFIG))


@pytest.fixture(scope="module")
def whole(model: Model) -> np.ndarray:
    oracle = v4_numpy.forward(CONFIG, small.weights(CONFIG), TOKENS, official=False)
    margins = [block.expert_margins.min() for block in oracle.layers]
    margins += [b.index_margins.min() for b in oracle.layers if b.index_margins is not None]
    # Ten times what a float32 score is off by: else a choice would hang on the order of sums, and
    # all later rows on the choice.
    assert min(margins) > 2e-5
    return running.run(model, TOKENS)


def arrays(state: LayerState) -> list[np.ndarray]:
    """Everything a timeline holds, spare rows left out."""
    held = [*state.fixed(), *(pool.rows() for pool in state.pools())]
    return [np.array(a) for a in held if a is not None]


def assert_same_state(ours: Sequence[LayerCache], expected: Sequence[LayerCache]) -> None:
    for layer, other in zip(ours, expected, strict=True):
        for row, row_expected in zip(layer.rows, other.rows, strict=True):
            assert row.position == row_expected.position
            for a, b in zip(arrays(row), arrays(row_expected), strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(a, b, rtol=0, atol=CLOSE)


splits = st.lists(st.sampled_from([1, 2, 3, 4, 5, 9, 31, 64, 127, 128, 129]), max_size=8)


@given(sizes=splits)
@settings(max_examples=15)
def test_any_split_gives_the_logits_and_the_cache_of_one_call(
    model: Model, whole: np.ndarray, sizes: list[int]
) -> None:
    cut, one = model.make_cache(), model.make_cache()
    logits = running.feed(model, cut, running.pieces(TOKENS, sizes))
    np.testing.assert_allclose(logits, whole, rtol=0, atol=CLOSE)
    running.feed(model, one, [TOKENS])
    assert_same_state(cut, one)


@pytest.mark.parametrize(
    "size",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in (2, 3, 5))) for n in running.CHUNKS],
)
def test_every_chunk_size(model: Model, whole: np.ndarray, size: int) -> None:
    np.testing.assert_allclose(running.run(model, TOKENS, size), whole, rtol=0, atol=CLOSE)


@pytest.fixture(scope="module")
def one_expert() -> Model:
    """A token that takes another expert changes the shapes, and so the last bits, of the products
    its neighbours share; with one expert nothing but a leak can change a bit."""
    config = CONFIG | {"n_routed_experts": 1, "num_experts_per_tok": 1}
    return small.model(config, small.weights(config))


@pytest.mark.parametrize("size", [LENGTH, 37])
@pytest.mark.parametrize("token", [0, 3, 100, 127, 128, LENGTH - 1])
def test_a_token_changes_no_bit_before_it(one_expert: Model, token: int, size: int) -> None:
    other = TOKENS.copy()
    other[token] = (other[token] + 1) % CONFIG["vocab_size"]
    before, after = (running.run(one_expert, tokens, size) for tokens in (TOKENS, other))
    np.testing.assert_array_equal(after[:token], before[:token])
    assert (after[token:] != before[token:]).any(axis=1).all()


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("lengths", [(3, 130, 71), (1, 1, LENGTH), (128, 5)], ids=str)
@pytest.mark.parametrize("size", [300, 50])
def test_a_ragged_batch_is_its_single_runs(
    model: Model, whole: np.ndarray, lengths: tuple[int, ...], left: bool, size: int
) -> None:
    prompts = [TOKENS[:length] for length in lengths]
    for logits in running.run_batch(model, prompts, size, left=left):
        np.testing.assert_allclose(logits, whole[: len(logits)], rtol=0, atol=CLOSE)


def test_a_ragged_batch_continues_token_by_token(model: Model, whole: np.ndarray) -> None:
    lengths, steps = (3, 130, 71), 9
    cache = model.make_cache()
    padding = [max(lengths) - n for n in lengths]
    for layer in cache:
        layer.prepare(lengths=list(lengths), right_padding=padding)
    mx.eval(model(mx.array(running.padded([TOKENS[:n] for n in lengths])), cache))
    for layer in cache:
        layer.finalize()
    for step in range(steps):
        tokens = np.array([[TOKENS[n + step]] for n in lengths])
        logits = np.array(model(mx.array(tokens), cache)[:, 0])
        expected = whole[[n + step for n in lengths]]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("window", [1, 3, 7])
def test_windows_shorter_than_a_call_and_of_any_length(window: int) -> None:
    """Rings that a call passes many times over, in single calls, in pieces and in a batch."""
    settings = CONFIG | {"sliding_window": window}
    own = small.model(settings, small.weights(settings))
    expected = running.run(own, TOKENS)
    for sizes in ([134, 1, 2, 1], [1] * 12, [130, 7]):
        np.testing.assert_allclose(running.run(own, TOKENS, sizes), expected, rtol=0, atol=CLOSE)
    prompts = [TOKENS[:n] for n in (17, 131, 4)]
    for logits in running.run_batch(own, prompts, 60):
        np.testing.assert_allclose(logits, expected[: len(logits)], rtol=0, atol=CLOSE)
