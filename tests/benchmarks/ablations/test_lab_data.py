"""benchmarks/ablations/lab_data.py: what is planted is what is asked, held out stays held out."""

import random

import numpy as np
import pytest

from benchmarks.ablations import lab_data
from benchmarks.ablations.lab_data import ASK, FACTS, KEYS, NEEDLES, NOTE, TOWNS, VALUES

LENGTH = 96


@pytest.fixture(autouse=True)
def short_topics(monkeypatch: pytest.MonkeyPatch):
    """Ten topics of text instead of the reference of Python, whose tokens take seconds."""
    topics = [f"Topic {n} is about the number {n} and its neighbours. " * 40 for n in range(10)]
    monkeypatch.setattr(lab_data, "_topics", lambda: topics)
    lab_data.texts.cache_clear()
    yield
    lab_data.texts.cache_clear()


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, again = (lab_data.batch(1, 5, 4, LENGTH) for _ in range(2))
    np.testing.assert_array_equal(one.tokens, again.tokens)
    np.testing.assert_array_equal(one.weights, again.weights)
    assert one.tokens.shape == one.weights.shape == (4, LENGTH + 2)
    assert one.tokens.max() < lab_data.VOCAB
    for seed, step in ((2, 5), (1, 6)):
        assert (lab_data.batch(seed, step, 4, LENGTH).tokens != one.tokens).any()


def test_two_batches_of_four_rows_hold_every_kind() -> None:
    rows = [row for step in (0, 1) for row in lab_data.batch(0, step, 4, LENGTH).tokens]
    assert sum((row == ASK).any() for row in rows) == 4
    assert sum((row == lab_data.END).sum() > 5 for row in rows) == 1
    assert sum((row < lab_data.TEXT_VOCAB).all() for row in rows) == 3


def test_answers_of_needles_are_the_values_planted() -> None:
    tokens, answers = lab_data.needle_row(random.Random(0), lab_data.texts()[0], 200)
    assert len(tokens) == 200
    planted = {tokens[n + 1]: tokens[n + 2] for n, token in enumerate(tokens) if token == NOTE}
    assert len(planted) == NEEDLES and set(planted) <= set(KEYS)
    for position, distance in answers.items():
        key = tokens[position - 1]
        assert tokens[position - 2] == ASK and tokens[position] == planted[key] in VALUES
        before = max(n for n in range(position - 1) if tokens[n] == key)
        assert distance == position - 1 - before
    assert len(answers) == 200 * 2 // 5 // 3


def test_only_answers_beyond_the_window_are_asked() -> None:
    asked = lab_data.held_out_needles(4, 200, beyond=64)
    assert asked.answers and set(asked.tokens[0]) - set(lab_data.texts()[0])
    for row, position in asked.answers:
        tokens = asked.tokens[row].tolist()
        assert tokens[position - 1] not in tokens[position - 1 - 64 : position - 1]


def test_every_fact_is_asked_in_a_wording_that_no_training_row_uses() -> None:
    asked = lab_data.held_out_facts(0, LENGTH)
    people = lab_data.facts(0)
    assert len(people) == len(asked.answers) == FACTS
    assert [asked.tokens[row, place] for row, place in asked.answers] == [p.town for p in people]
    assert {p.town for p in people} <= set(TOWNS)
    trained = [lab_data.batch(0, step, 8, LENGTH).tokens[6].tolist() for step in range(200)]
    told = {tuple(row[n : n + size]) for row in trained for size in (6, 7) for n in range(LENGTH)}
    assert not {tuple(p.told(p.held_out)) for p in people} & told
    seen = sum(any(tuple(p.told(w)) in told for w in range(3)) for p in people)
    assert seen > 0.95 * FACTS


def test_held_out_text_is_of_topics_that_no_training_row_has() -> None:
    kept, held_out = lab_data.texts()
    assert len(held_out) < len(kept) / 5
    text = lab_data.held_out_text(3, 50)
    assert text.shape == (3, 51)
    runs = {kept[n : n + 51] for n in range(len(kept) - 50)}
    assert not {tuple(row) for row in text.tolist()} & runs
