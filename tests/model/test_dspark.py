"""DSpark's stages against golden vectors that a float64 reference and another program agree on.

Logits and confidences are compared beside the drafts: several wrong variants leave the drafts of
the first round as they are.

Logits are within 1e-5. A confidence is near 10 and its logit's hidden row is not normed: rounding
the weights alone to float32's 24 bits moves it by 5e-6 in the mean of squares and 1.05e-5 at most
(12 draws of each of 8 rounds, in float64), and float32 numpy is off by 1.08e-5. So the bound of
confidences is eight of these means.
"""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.model.dspark import DraftedBlock, DSparkBlock
from dsv4_mlx.release.spellings import keys_of
from tests.model import dspark_golden
from tests.model.dspark_golden import CONFIG, ROUNDS, WIDTH, D, filled, taps
from tests.oracle import dspark_numpy

LOGITS, CONFIDENCES = 1e-5, 4e-5
PRINTED = 6e-7
"""Six digits of the golden values, and angles that the oracle takes from float32 products."""


@pytest.fixture(scope="module")
def block() -> DSparkBlock:
    return dspark_golden.block()


def oracle(seen: int, anchor: int) -> dspark_numpy.Drafted:
    """The block after the first `seen` taps, in float64."""
    weights = {n: w.astype(np.float64) for n, w in dspark_golden.official_weights().items()}
    start = max(0, seen - CONFIG.sliding_window)
    context = filled("hid", (seen, WIDTH), 1)[start:].astype(np.float64)
    return dspark_numpy.draft(keys_of(CONFIG), weights, context, start, anchor)


def check(found: DraftedBlock, expected: dspark_numpy.Drafted) -> None:
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.confidence is not None
    np.testing.assert_allclose(np.array(found.logits), expected.logits, rtol=0, atol=LOGITS)
    np.testing.assert_allclose(
        np.array(found.confidence), expected.confidence, rtol=0, atol=CONFIDENCES
    )


def test_the_formula_of_the_weights_is_the_one_that_was_agreed_on() -> None:
    weight = filled("mtp.0.attn.wq_a.weight", (32, D), 1.6 / 8)
    np.testing.assert_allclose(weight.ravel()[:3], [0.196044, 0.015945, -0.187260], atol=1e-6)
    assert abs(np.abs(weight).sum() - 260.7638) < 1e-3
    np.testing.assert_allclose(filled("hid", (2, WIDTH), 1)[1, :3],
                               [0.914338, 0.221099, -0.650305], atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("run", ROUNDS)
def test_blocks_are_the_golden_ones(block: DSparkBlock, run: str) -> None:
    """The oracle gives what was printed, and ours what the oracle gives, in every row."""
    cache, seen = block.make_cache(), 0
    for count, anchor, drafts, confidence, row in ROUNDS[run]:
        block.absorb(taps(seen, seen + count), cache)
        seen += count
        expected = oracle(seen, anchor)
        assert expected.ids.tolist() == drafts
        np.testing.assert_allclose(expected.confidence, confidence, rtol=0, atol=PRINTED)
        np.testing.assert_allclose(expected.logits[0, :4], row, rtol=0, atol=PRINTED)
        check(block.draft(anchor, cache), expected)


def test_the_first_block_is_the_golden_one_before_its_markov_head() -> None:
    found = oracle(9, 3)
    sums = [-3.6199, -4.574, -4.3938, -4.1671, -3.9967]
    np.testing.assert_allclose(found.logits.sum(axis=-1), sums, atol=6e-5)
    hidden = [0.33785, -1.45153, -1.46399, 0.54947]
    np.testing.assert_allclose(found.hidden[0, :4], hidden, atol=6e-6)
    assert found.logits.argmax(axis=-1).tolist() == [86, 46, 59, 59, 72]


def test_context_absorbed_one_by_one_is_that_absorbed_at_once(block: DSparkBlock) -> None:
    """Across the end of the ring, and with drafts between, which leave no trace."""
    whole, single = block.make_cache(), block.make_cache()
    block.absorb(taps(0, 23), whole)
    for number in range(23):
        block.absorb(taps(number, number + 1), single)
        block.draft(7, single)
    one, other = block.draft(5, whole), block.draft(5, single)
    np.testing.assert_allclose(np.array(one.logits), np.array(other.logits), atol=LOGITS)


def test_a_block_without_context_sees_itself_alone(block: DSparkBlock) -> None:
    check(block.draft(3, block.make_cache()), oracle(0, 3))


def test_draws_take_the_place_of_the_likeliest_tokens(block: DSparkBlock) -> None:
    cache = block.make_cache()
    block.absorb(taps(0, 9), cache)
    found = block.draft(3, cache, [lambda logprobs: mx.array(11)] * 2)
    assert found.ids.tolist()[:2] == [11, 11]
