"""Evaluation: answers in batches are those of a session, parts can be switched off, rows add up."""

import csv
from importlib import resources
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import UsageError
from dsv4_mlx.loading import load
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.training.acceptance import accepted
from dsv4_mlx.training.data.fact_tasks import FactTasks
from dsv4_mlx.training.data.help import written_facts
from dsv4_mlx.training.data.judging import KeyWords
from dsv4_mlx.training.data.lessons import lesson_of
from dsv4_mlx.training.data.task import Task, assistant, user
from dsv4_mlx.training.evaluate import WITHOUT, AbilityRow, main, write_rows
from dsv4_mlx.training.evaluation import Outcome, Score, answers, outcomes, scores
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.rollouts import put_weights
from dsv4_mlx.training.switches import EXPLAINED, _NewestEntries, without
from tests.training.small import SMALL as NARROW

NANO_FOLDER = Path(str(resources.files("dsv4_mlx"))) / "nano"
SMALL = NARROW.replace(index_n_heads=4, index_topk=4)
LENGTH = 140  # one entry of HCA, and more of CSA than are selected
# From which position on a part can matter: a second token, a first entry, entries to choose from.
FIRST = {"window": 1, "csa": 3, "hca": 127, "selection": 4 * 5 - 1}


@pytest.fixture(scope="module")
def nano():
    return load(NANO_FOLDER, backend="cpu")


@pytest.fixture(scope="module")
def small():
    model = Model(SMALL, numerics=Numerics.PLAIN, backend="cpu")
    put_weights(model, initial_parameters(SMALL, 0))
    return model


@pytest.fixture(scope="module")
def tokens():
    return mx.array(np.random.default_rng(0).integers(0, 64, (1, LENGTH)), mx.int32)


def greeting(question: str, *keys: str) -> Task:
    reply = assistant("Hello!", "", "chat")
    return Task("talk", "", (user(question),), "chat", KeyWords(keys), reply)


def test_answers_in_a_batch_are_those_of_a_session(nano):
    asked = [greeting("How are you?", "fine"), greeting("How do I leave the chat?", "made up")]
    found = {one.task.messages[0]["content"]: one for one in outcomes(*nano, asked, rows=2)}
    questions = [task.messages[0]["content"] for task in asked]
    alone = answers(*nano, questions)
    assert [found[question].reply["content"] for question in questions] == alone
    assert [found[question].right for question in questions] == [True, False]
    assert all(alone)


@pytest.mark.parametrize("part", EXPLAINED)
def test_a_part_that_is_off_changes_what_it_can_reach_and_nothing_else(small, tokens, part):
    whole = np.array(small(tokens))
    with without(small, part):
        off = np.array(small(tokens))
    again = np.array(small(tokens))
    first = FIRST[part]
    # Alike, not equal: a product over fewer columns adds up in another order.
    np.testing.assert_allclose(off[:, :first], whole[:, :first], atol=1e-4)
    assert np.abs(off[:, first:] - whole[:, first:]).max() > 1e-3
    np.testing.assert_array_equal(again, whole)


def test_the_command_knows_every_part():
    assert tuple(EXPLAINED) == WITHOUT


def test_a_part_comes_back_after_an_error(small, tokens):
    whole = np.array(small(tokens))
    with pytest.raises(KeyError), without(small, "csa"):
        raise KeyError
    np.testing.assert_array_equal(np.array(small(tokens)), whole)


def test_an_unknown_part_is_one_sentence(small):
    sentence = r"window, csa, hca, selection, got 'experts'"
    with pytest.raises(UsageError, match=sentence), without(small, "experts"):
        pass


def test_the_newest_entries_are_those_before_the_query():
    newest = _NewestEntries(None)
    q, weights, keys = mx.zeros((1, 4, 1, 2)), mx.zeros((1, 4, 1)), mx.zeros((1, 5, 2))
    options = {"ratio": 4, "k": 2, "scale": 1.0}
    chosen = newest.index_topk(q, weights, keys, first_position=1, **options)
    assert chosen.tolist() == [[[-1, -1], [-1, -1], [0, -1], [0, -1]]]
    chosen = newest.index_topk(q, weights, keys, first_position=14, **options)
    assert chosen.tolist() == [[[1, 2], [2, 3], [2, 3], [2, 3]]]


def test_drafts_count_where_the_assistant_speaks(nano):
    model, tokenizer = nano
    hello = next(fact for fact in written_facts() if fact.id == "hello")
    task = greeting("Hello there", "nano")
    reply = assistant(hello.answer, "", "chat")
    task = Task(task.kind, "", task.messages, "chat", task.answer, reply)
    right, drafted = accepted(model, tokenizer, task)
    assert drafted == sum(weight == 1.0 for weight in lesson_of(tokenizer, task).weights[2:])
    assert drafted / 2 < right <= drafted


def test_scores_are_grouped_by_what_matters():
    def outcome(right, **traits):
        task = Task("arithmetic", "", (), "chat", KeyWords(()), {}, traits=traits)
        return Outcome(task, {}, right, 3)

    found = [outcome(True, digits=2, carries=0), outcome(False, digits=2, carries=0)]
    found.append(outcome(True, digits=3, carries=1))
    assert scores(found) == [
        Score("", 3, 2),
        Score("digits=2 carries=0", 2, 1),
        Score("digits=3 carries=1", 1, 1),
    ]
    assert Score("", 4, 3).percent == 75.0 and Score("", 0, 0).percent == 0.0


def test_the_command_prints_and_writes_a_row_for_every_score(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    words = [str(NANO_FOLDER), "--kind", "talk", "--mode", "chat", "--count", "1", "--csv"]
    main([*words, str(path)])
    printed = capsys.readouterr().out
    assert "talk chat" in printed and "of     1" in printed
    (row,) = csv.DictReader(path.open(encoding="utf-8"))
    assert (row["model"], row["kind"], row["mode"], row["count"]) == ("nano", "talk", "chat", "1")
    assert row["command"].startswith("python -m dsv4_mlx.training.evaluate ")


def test_rows_are_appended_under_one_header(tmp_path):
    path = tmp_path / "rows.csv"
    row = AbilityRow("2026-01-01", "m", "help", "chat", "", "", 4, 3, "75.0", 0, "python -m x")
    write_rows(path, [row])
    write_rows(path, [row, row])
    found = list(csv.DictReader(path.open(encoding="utf-8")))
    assert len(found) == 3 and found[0] == found[2] and found[0]["percent"] == "75.0"


def test_a_folder_that_is_no_model_ends_in_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="error: "):
        main([str(tmp_path), "--kind", "talk"])


def test_held_out_questions_come_once_before_any_comes_again():
    import random

    asked = FactTasks("talk", random.Random(0), "held_out")
    found = [asked("chat").messages[0]["content"] for _ in range(20)]
    assert len(set(found)) == 20
