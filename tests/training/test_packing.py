"""Prompts that are read once for their answers against rows that read them each time."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.training import native
from dsv4_mlx.training.grpo import GrpoBatch, GrpoObjective
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.objective import NanoObjective
from dsv4_mlx.training.packed_batch import PackedBatch
from dsv4_mlx.training.packing import SharedPrompts
from dsv4_mlx.training.policy import V4Policy
from dsv4_mlx.training.rollouts import Sample, SampleBatch, as_batch
from tests.training.small import SMALL

DIRECT = SMALL.replace(index_n_heads=2)
# Heads wider than their residual and their share of the output, as nano's are.
WIDE = SMALL.replace(head_dim=96, q_lora_rank=32, o_lora_rank=48, num_attention_heads=4)
CHOOSING = WIDE.replace(index_n_heads=2, index_topk=4)
UNTRAINED = ("tid2eid", "e_score_correction_bias")
# Entries close every 4 and 128 tokens, queries come in blocks of 64, the window has 8 tokens.
GROUPS = [(3, (6, 140)), (126, (6, 1, 67)), (1, (4, 1)), (9, (5,)), (128, (3, 9))]


def samples(groups=GROUPS, seed=4) -> list[Sample]:
    rng = np.random.default_rng(seed)
    found = []
    for prompt, answers in groups:
        asked = tuple(rng.integers(0, 64, prompt).tolist())
        for count in answers:
            tokens = tuple(rng.integers(0, 64, count).tolist())
            found.append(Sample(asked, tokens, tuple(rng.uniform(-6, -3, count)), True))
    return found


def weights(config):
    """Parameters that are no longer even, and those that no gradient moves."""
    every, rng = initial_parameters(config, 0), np.random.default_rng(2)
    for name, value in every.items():
        if not name.endswith(UNTRAINED):
            noise = rng.standard_normal(value.shape).astype(np.float32)
            every[name] = value + 0.05 * mx.array(noise)
    fixed = {name: every.pop(name) for name in list(every) if name.endswith(UNTRAINED)}
    return every, fixed


def update(config, answers: SampleBatch, packs: bool):
    """The reference's logits, then loss, extras and gradients of GRPO at other weights."""
    parameters, fixed = weights(config)
    policy = V4Policy(NanoObjective(config, fixed), fixed, packs=packs)
    before = {name: value * 0.9 for name, value in parameters.items()}
    reference = policy.logits(before, answers)
    advantages = np.random.default_rng(6).normal(size=len(answers.targets)).astype(np.float32)
    batch = GrpoBatch(answers, advantages, reference, len(answers.targets))
    (loss, extras), found = mx.value_and_grad(GrpoObjective(policy))(parameters, batch)
    return {"reference": reference, "loss": loss, **extras}, found


def assert_same(config, answers: SampleBatch):
    losses, found = update(config, answers, packs=True)
    expected_losses, expected = update(config, answers, packs=False)
    for name, value in expected_losses.items():
        np.testing.assert_allclose(
            np.array(losses[name]), np.array(value), rtol=1e-4, atol=2e-4, err_msg=name
        )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = mx.abs(value).max().item()
        assert mx.abs(found[name] - value).max().item() <= 2e-4 * size + 1e-7, name
    return expected


@pytest.mark.parametrize("config", [DIRECT, WIDE, CHOOSING], ids=["direct", "absorbed", "choosing"])
def test_an_update_is_the_same(config):
    expected = assert_same(config, as_batch(samples()))
    still = {name for name, value in expected.items() if not mx.abs(value).max().item()}
    assert all(".indexer." in name for name in still)  # the rest of the model all takes part


def test_it_is_the_same_by_operations(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    assert_same(WIDE, as_batch(samples()))


@pytest.mark.parametrize("groups", [[(2, (1,))], [(1, (1, 1)), (2, (2,))], [(1, (2, 3))]])
def test_it_is_the_same_with_hardly_a_token(groups):
    assert_same(WIDE, as_batch(samples(groups)))


def test_a_prompt_is_read_once_and_the_last_token_of_an_answer_never():
    asked, other = (5, 6, 7), (5, 6)
    given = [(asked, (8, 9)), (asked, (4,)), (other, (3, 2)), (asked, (1, 1))]
    packed = PackedBatch(as_batch([Sample(*one, (0.0,) * len(one[1]), True) for one in given]))
    assert packed.tokens.tolist() == [5, 6, 7, 8, 5, 6, 3, 5, 6, 7, 1]
    assert packed.packing.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3]
    assert packed.places.tolist() == [2, 3, 2, 5, 6, 9, 10]
    # A draft is made of the stream before and the token after it: the prompt's last is in each.
    drafts = packed.drafts
    assert drafts.streams.tolist() == [0, 1, 2, 4, 5, 7, 8, 9]
    assert drafts.given.tolist() == [6, 7, 8, 6, 3, 6, 7, 1]
    assert drafts.places.tolist() == [1, 2, 1, 3, 4, 6, 7]
    assert drafts.targets.tolist() == [8, 9, 4, 3, 2, 1, 1]


def test_entries_that_a_prompt_closes_are_made_once():
    packing = SharedPrompts([(5, (3, 2)), (1, (3,))], 8)
    made = packing.entries(2, overlaps=True)
    # Tokens 0 to 4 are the prompt, 5 to 7 and 8 and 9 its answers; 10 and 11 to 13 the next ones.
    assert made.places.tolist() == [
        *([-1, -1, 0, 1], [0, 1, 2, 3]),
        *([2, 3, 4, 5], [4, 5, 6, 7]),
        [2, 3, 4, 8],
        *([-1, -1, 10, 11], [10, 11, 12, 13]),
    ]
    assert made.numbers.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert made.segments.tolist() == [
        [0, 5, 0, 0, 0, 0, 0, 2],
        [5, 3, 5, 0, 2, 0, 2, 4],
        [8, 2, 5, 0, 4, 0, 2, 3],
        [10, 1, 0, 10, 5, 5, 0, 0],
        [11, 3, 1, 10, 5, 5, 0, 2],
    ]


def test_distilled_answers_are_read_without_padding():
    answers = as_batch(samples([(9, (5,)), (30, (20,))]))
    assert PackedBatch(answers).tokens.size == 9 + 4 + 30 + 19 < answers.tokens.size
