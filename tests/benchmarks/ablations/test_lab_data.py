"""benchmarks/ablations/lab_data.py: what is planted is what is asked, held out stays held out."""

import random

import numpy as np
import pytest

from benchmarks.ablations import lab_data
from benchmarks.ablations.lab_data import ASK, END, FACTS, FEWEST, KEYS, MOST, NOTE, TOWNS, VALUES

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
    assert sum(np.isin(row, KEYS).any() for row in rows) == 3
    assert sum(np.isin(row, TOWNS).any() for row in rows) == 2
    assert sum((row < lab_data.TEXT_VOCAB).all() for row in rows) == 3
    alone = lab_data.batch(0, 0, 4, LENGTH, alone=True).tokens
    assert all(np.isin(row, [NOTE, END]).any() for row in alone)


def test_answers_of_needles_are_the_values_that_their_block_planted() -> None:
    distances = set()
    for seed in range(40):
        tokens, answers = lab_data.needle_row(random.Random(seed), lab_data.texts()[0], 200)
        assert len(tokens) == 200
        assert list(answers) == [n + 2 for n, t in enumerate(tokens[:-2]) if t == ASK]
        for position, distance in answers.items():
            key, planted = tokens[position - 1], position - 1 - distance
            assert tokens[planted - 1] == NOTE and tokens[planted] == key in KEYS
            assert tokens[planted + 1] == tokens[position] in VALUES
            assert END not in tokens[planted:position]
        distances |= set(answers.values())
    assert min(distances) < 8 and max(distances) > 100


def test_a_block_asks_for_each_of_its_keys_once() -> None:
    tokens, _ = lab_data.needle_row(random.Random(3), lab_data.texts()[0], 2000)
    text = " ".join(map(str, tokens)).split(f" {END} ")[:-1]  # the last may be cut
    blocks = [[int(token) for token in block.split()] for block in text]
    assert len(blocks) > 10
    for block in blocks:
        planted = [block[n + 1] for n, token in enumerate(block) if token == NOTE]
        asked = [block[n + 1] for n, token in enumerate(block) if token == ASK]
        assert sorted(planted) == sorted(set(asked)) and FEWEST <= len(asked) <= MOST


def test_answers_are_grouped_by_what_sees_their_pair() -> None:
    window, ratio = 32, 64
    asked = lab_data.held_out_needles(6, 250, window, ratio)
    assert set(asked.answers) == {"near", "csa", "hca"} and all(asked.answers.values())
    for group, places in asked.answers.items():
        for row, position in places:
            tokens = asked.tokens[row].tolist()
            key, asking = tokens[position - 1], position - 1
            value = max(n for n in range(asking) if tokens[n : n + 2] == [NOTE, key]) + 2
            assert (value in range(asking - window + 1, asking)) == (group == "near")
            if group != "near":
                closed = (asking + 1) // ratio * ratio  # tokens in closed entries
                assert (value < closed) == (group == "hca")


def test_every_fact_is_asked_in_a_wording_that_no_training_row_uses() -> None:
    asked = lab_data.held_out_facts(0, LENGTH)
    people = lab_data.facts(0)
    places = asked.answers["facts"]
    assert len(people) == len(places) == FACTS
    assert [asked.tokens[row, place] for row, place in places] == [p.town for p in people]
    assert {p.town for p in people} <= set(TOWNS)
    batches = (lab_data.batch(0, step, 8, LENGTH).tokens for step in range(100))
    trained = [tokens[row].tolist() for tokens in batches for row in (2, 6)]
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
