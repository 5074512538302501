"""Batches: rows of whole lessons in the official encoding, equal tokens per mode, digit tokens."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import ASSISTANT, BOS, END_THINK, EOS
from dsv4_mlx.testing.tokenizers import write_tokenizer
from dsv4_mlx.training.data.batches import batch, corpus, packed_rows
from dsv4_mlx.training.data.judging import NoCall
from dsv4_mlx.training.data.lessons import (
    COPIED,
    ELSEWHERE,
    LONG_TEXT,
    SHARES,
    lesson_of,
    mean_tokens,
)
from dsv4_mlx.training.data.task import Task, assistant, user
from dsv4_mlx.training.data.tasks import MAKERS, tasks

LENGTH = 900


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, corpus(0, conversations=200), 2048)
    return Tokenizer(folder)


def test_a_batch_depends_on_seed_and_step_alone(tokenizer):
    first = batch(tokenizer, 0, 5, rows=2, length=LENGTH)
    again = batch(tokenizer, 0, 5, rows=2, length=LENGTH)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.weights, again.weights)
    other = batch(tokenizer, 0, 6, rows=2, length=LENGTH)
    assert (first.tokens != other.tokens).any()
    assert first.tokens.shape == first.weights.shape == (2, LENGTH + 2)
    assert (first.tokens.dtype, first.weights.dtype) == (np.int32, np.float32)
    assert (first.tokens[:, 0] == tokenizer.bos_id).all()


def test_every_kind_is_taught_and_the_modes_have_equal_tokens(tokenizer):
    tokens: Counter = Counter()
    for step in range(40):
        for row in packed_rows(tokenizer, 1, step, 3, LENGTH):
            room = LENGTH + 2
            for lesson in row:
                tokens[lesson.kind, lesson.mode] += min(room, len(lesson.ids))
                room -= len(lesson.ids)
            assert room <= 0
    total = sum(tokens.values())
    assert len(tokens) == 2 * len(SHARES)
    for kind, share in SHARES.items():
        own = [tokens[kind, mode] / total for mode in ("chat", "thinking")]
        assert abs(sum(own) - share) < 0.06, (kind, own)
        # A lesson with tools is most of a row, so that few are drawn; sums are many.
        assert abs(own[0] - own[1]) < (0.02 if kind == "arithmetic" else 0.05), (kind, own)
    assert abs(sum(tokens[kind, "chat"] for kind in SHARES) / total - 0.5) < 0.06


def test_lessons_that_do_not_fit_are_left_out(tokenizer):
    kinds = {kind for kind, _ in mean_tokens(tokenizer, 130)}
    assert "tools" not in kinds and "arithmetic" in kinds
    assert batch(tokenizer, 0, 0, rows=3, length=128).tokens.shape == (3, 130)


def test_only_what_the_assistant_says_counts_fully(tokenizer):
    messages = (user("Hi"), assistant("Hello", "", "chat"), user("word " * 200))
    task = Task("talk", "", messages, "chat", NoCall(), assistant("Bye", "", "chat"))
    lesson = lesson_of(tokenizer, task)
    control = tokenizer.control_ids
    worth = {True: [], False: []}
    speaks = False
    for index, (token, weight) in enumerate(zip(lesson.ids, lesson.weights, strict=True)):
        before = lesson.ids[index - 1] if index else None
        given = token == control[END_THINK] and before == control[ASSISTANT]
        worth[speaks and not given].append(weight)
        speaks = (speaks or token == control[ASSISTANT]) and token != control[EOS]
    assert set(worth[True]) == {1.0}
    assert set(worth[False]) == {ELSEWHERE, LONG_TEXT}
    assert lesson.ids == tokenizer.encode(encode_messages(task.lesson()))


def test_what_is_copied_counts_more(tokenizer):
    messages = (user("My city is Old Town, old"),)
    reply = assistant("Your city is Old Town, I see.", "", "chat")
    task = Task("follow_up", "", messages, "chat", NoCall(), reply, copied=("Old Town",))
    lesson = lesson_of(tokenizer, task)
    pairs = zip(lesson.ids, lesson.weights, strict=True)
    copied = "".join(tokenizer.decode([index]) for index, weight in pairs if weight == COPIED)
    assert copied.strip() == "Old Town"
    assert {*lesson.weights} == {ELSEWHERE, 1.0, COPIED}


@pytest.mark.parametrize("kind", MAKERS)
def test_lessons_are_the_official_encoding(tokenizer, kind):
    for task in islice(tasks(kind, "train", 0), 4):
        prompt = encode_messages(
            task.lesson(), thinking_mode=task.thinking_mode, drop_thinking=False
        )
        lesson = lesson_of(tokenizer, task, keep=True)
        assert lesson.ids == tokenizer.encode(prompt)
        assert str(prompt).startswith(BOS) and str(prompt).endswith(EOS)
        assert len(lesson.ids) == len(lesson.weights)


def test_a_lesson_that_goes_on_keeps_the_reasoning_of_its_first_answer(tokenizer):
    for kind in ("recall", "tools"):
        task = next(
            task
            for task in tasks(kind, "train", 0, "thinking")
            if any(message["role"] == "user" for message in task.after)
        )
        said = tokenizer.decode(lesson_of(tokenizer, task).ids)
        thoughts = [m["reasoning_content"] for m in task.lesson() if m["role"] == "assistant"]
        assert len(thoughts) > 1 and all(thought in said for thought in thoughts)
        assert tokenizer.decode(tokenizer.encode(task.prompt())) in said


def test_every_digit_is_a_token_of_its_own(tokenizer):
    ids = tokenizer.encode("1984+276=2260")
    assert [tokenizer.decode([index]) for index in ids] == list("1984+276=2260")


def test_recall_has_the_tokens_that_it_names(tmp_path):
    """With the vocabulary that nano's recipe makes; a smaller one cuts words into pieces."""
    write_tokenizer(tmp_path, corpus(0, conversations=600), 2048)
    tokenizer = Tokenizer(tmp_path)
    for task in islice(tasks("recall", "held_out", 0), 12):
        length = int(task.traits["length"])
        assert 0.85 * length < len(tokenizer.encode(task.prompt())) < 1.1 * length
        assert not task.after
