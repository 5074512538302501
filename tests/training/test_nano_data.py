"""The data of nano: patterns, the separation of training and evaluation, rows and weights."""

import random
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import ASSISTANT, BOS, EOS, USER
from dsv4_mlx.testing.tokenizers import write_tokenizer
from dsv4_mlx.training import nano_data


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, nano_data.corpus(0, conversations=100), 1024)
    return Tokenizer(folder)


def expansions(pattern: str) -> Iterator[str]:
    """Every wording of a pattern: "a (b|c)" gives "a b" and "a c"."""
    parts = nano_data.GROUP.split(pattern)  # text, alternatives, text, ...
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    for combination in product(*choices):
        yield " ".join("".join(combination).split())


def trained_wordings(fact):
    return {text.lower() for pattern in fact.questions for text in expansions(pattern)}


def test_a_pattern_stands_for_every_combination():
    found = list(expansions("(a|b) c( d|)"))
    assert found == ["a c d", "a c", "b c d", "b c"]
    rng = random.Random(0)
    assert {nano_data.wording("(a|b) c( d|)", rng) for _ in range(100)} == set(found)


def test_held_out_wordings_are_never_trained():
    trained = set().union(*(trained_wordings(fact) for fact in nano_data.facts()))
    held_out = [text for fact in nano_data.facts() for text in fact.held_out]
    assert len(held_out) >= 100
    assert not [text for text in held_out if text.lower() in trained]


def test_reframing_never_gives_a_held_out_wording():
    rng = random.Random(3)
    fact = next(fact for fact in nano_data.facts() if fact.id == "mhc")
    said = [nano_data.fact_turn(fact, rng).question for _ in range(500)]
    assert len(set(said)) > 200
    assert not any(map(nano_data.is_held_out, said))
    assert nano_data.is_held_out("could you describe the HYPER-CONNECTIONS?")
    assert nano_data.reframed("How do I leave", rng) != "How do I leave"


def test_no_wording_has_two_answers():
    seen: dict[str, str] = {}
    for fact in nano_data.facts():
        for text in trained_wordings(fact):
            assert seen.setdefault(text, fact.id) == fact.id, text


def test_facts_are_answered_by_their_own_answer_alone():
    for fact in nano_data.facts():
        assert len(trained_wordings(fact)) >= 10, fact.id
        assert fact.answered_by(fact.answer), fact.id
    convert = next(fact for fact in nano_data.facts() if fact.id == "convert")
    assert "python -m convert" in convert.answer
    assert not convert.answered_by("Type `/quit` to leave the chat.")


def test_a_batch_depends_on_seed_and_step_alone(tokenizer):
    first = nano_data.batch(tokenizer, 0, 5, rows=2, length=64)
    again = nano_data.batch(tokenizer, 0, 5, rows=2, length=64)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    other = nano_data.batch(tokenizer, 0, 6, rows=2, length=64)
    assert (first.tokens != other.tokens).any()
    assert first.tokens.shape == first.weights.shape == (2, 66)


def test_only_what_the_assistant_says_counts_fully(tokenizer):
    control = tokenizer.control_ids
    b, u, a, e, end = (control[t] for t in (BOS, USER, ASSISTANT, EOS, "</think>"))
    tokens = np.array([[b, u, 500, a, end, 501, 502, e, u, 503]])
    low = nano_data.ELSEWHERE
    expected = [low, low, low, low, low, 1, 1, 1, low, low]
    np.testing.assert_allclose(nano_data.target_weights(tokenizer, tokens)[0], expected)


def test_thinking_conversations_show_reasoning_before_the_answer():
    deck = nano_data.Deck(random.Random(1))
    texts = [str(nano_data.conversation(deck, 2)) for _ in range(60)]
    thinking = [text for text in texts if "<think>" in text]
    assert 20 < len(thinking) < 50
    assert all("<think>The user " in text for text in thinking)


def test_the_name_task_can_be_answered_from_the_conversation():
    rng, name = random.Random(2), None
    for _ in range(40):
        turn, name = nano_data.memory_turn(name, rng)
        if turn.answer.startswith("Your name is"):
            assert turn.answer == f"Your name is {name}."
