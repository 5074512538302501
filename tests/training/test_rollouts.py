"""Groups of answers: drawn from the policy, as often as it says, with its own log probabilities."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import UsageError
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.spellings import config_of
from dsv4_mlx.training.rollouts import (
    Sample,
    as_batch,
    drawn,
    put_weights,
    rollout_model,
    sampled_groups,
)
from tests.model import small

CONFIG = small.config(
    num_hidden_layers=3, compress_ratios=[4, 128, 0, 0], sliding_window=6, index_topk=8
)
PROMPTS = [[5, 9, 11, 4, 7], [3, 8, 20], [12, 2, 6, 30, 31]]
STOPS = (1, 7, 9, 17, 23)  # so many that random weights end some answers early


@pytest.fixture(scope="module")
def model() -> Model:
    made = rollout_model(config_of(CONFIG))
    put_weights(made, small.parameters(small.weights(CONFIG)))
    return made


def groups(model: Model, prompts=PROMPTS, **changes) -> list[list[Sample]]:
    options = {"group": 4, "max_tokens": 6, "stops": STOPS, "seed": 3, **changes}
    return sampled_groups(model, prompts, **options)


@pytest.fixture(scope="module")
def answers(model) -> list[list[Sample]]:
    return groups(model)


def test_log_probabilities_are_those_of_a_forward_pass_over_prompt_and_answer(model, answers):
    samples = [one for group in answers for one in group]
    batch = as_batch(samples)
    logits = model(mx.array(batch.tokens[:, :-1])).reshape(-1, CONFIG["vocab_size"])
    own = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[batch.places]
    expected = np.take_along_axis(own, batch.targets[:, None], axis=-1)[:, 0]
    np.testing.assert_allclose(batch.logprobs, expected, rtol=1e-3, atol=1e-3)
    assert len(batch.places) == sum(len(one.tokens) for one in samples)


def test_answers_end_with_a_stop_id_or_at_the_limit(answers):
    samples = [one for group in answers for one in group]
    assert {one.stopped for one in samples} == {True, False}  # the case has both
    for one in samples:
        assert len(one.tokens) == len(one.logprobs)
        assert not any(token in STOPS for token in one.tokens[:-1])
        assert one.tokens[-1] in STOPS if one.stopped else len(one.tokens) == 6


def test_groups_come_in_the_order_of_the_prompts(answers):
    assert [[one.prompt for one in group] for group in answers] == [
        [tuple(prompt)] * 4 for prompt in PROMPTS
    ]


def test_every_prompt_is_read_once(model, monkeypatch):
    read = []
    monkeypatch.setattr(
        Model, "last_logits", lambda self, t, c: read.append(t.shape) or self(t, c)[:, -1]
    )
    groups(model, max_tokens=2)
    assert sorted(read) == [(1, 3), (2, 5)]


def test_a_seed_gives_the_same_answers_and_another_seed_others(model, answers):
    assert groups(model) == answers
    assert groups(model, seed=4) != answers
    assert len({one.tokens for one in answers[0]}) > 1


def test_what_is_drawn_for_one_prompt_does_not_depend_on_the_others(model, answers):
    """Sums may end in another last bit, so the tokens of the first draws are compared."""
    alone = groups(model, rows=4, max_tokens=1)
    assert [[one.tokens[0] for one in group] for group in answers] == [
        [one.tokens[0] for one in group] for group in alone
    ]


def test_greedy_answers_are_the_likeliest_tokens(model):
    for (sample,) in groups(model, group=1, max_tokens=4, greedy=True):
        text = np.array(sample.prompt + sample.tokens)
        likeliest = small.logits(model, text)[len(sample.prompt) - 1 : -1].argmax(axis=-1)
        assert tuple(likeliest) == sample.tokens


def test_tokens_are_drawn_as_often_as_they_are_likely():
    probabilities = np.array([0.0, 0.125, 0.0, 0.5, 0.25, 0.125, 0.0])
    noise = (np.arange(64) + 0.5) / 64
    with np.errstate(divide="ignore"):
        logprobs = mx.array(np.log(probabilities)[None].repeat(64, axis=0).astype(np.float32))
    tokens = np.array(drawn(logprobs, mx.array(noise.astype(np.float32))))
    assert (np.bincount(tokens, minlength=7) == 64 * probabilities).all()
    # Both ends of (0, 1] give tokens that can occur.
    ends = drawn(logprobs[:2], mx.array([2**-24, 1.0]))
    assert np.array(ends).tolist() == [1, 5]


def test_a_batch_says_where_the_tokens_of_the_answers_are_predicted():
    one = Sample((5, 6, 7), (8, 1), (-0.5, -0.25), True)
    two = Sample((5,), (9,), (-2.0,), False)
    batch = as_batch([one, two], pad_to=3)
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 1, 0, 0], [5, 9, 0, 0, 0, 0, 0]]
    assert batch.places.tolist() == [2, 3, 6]
    assert batch.rows.tolist() == [0, 0, 1]
    assert batch.targets.tolist() == [8, 1, 9]
    assert batch.logprobs.tolist() == [-0.5, -0.25, -2]
    second = batch.part(1, 2)
    assert second.tokens.tolist() == [[5, 9, 0, 0, 0, 0, 0]]
    assert (second.places.tolist(), second.rows.tolist()) == ([0], [0])
    assert (second.targets.tolist(), second.logprobs.tolist()) == ([9], [-2])


@pytest.mark.parametrize("wrong", [{"group": 0}, {"max_tokens": 0}, {"prompts": [[]]}])
def test_what_cannot_be_drawn_is_refused(model, wrong):
    with pytest.raises(UsageError, match=r"or more|at least one token"):
        groups(model, **wrong)
