"""The embedded model answers the same whatever was undone, forked or loaded before."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dsv4_mlx
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.loading import load
from tests.chat.talking import CHAT, THINKING, answer

# Long enough together that windows and entries of both rates close, in answers and in questions.
# nano knows what to say to all of them: ways that read in other pieces differ by roundings, on
# which an answer to anything else may hang.
QUESTIONS = (
    "What is 12 + 30? " * 6,
    "How do I take back my last message? " * 4,
    "How do I leave the program? " * 4,
)
LONGEST = 20


@pytest.fixture(scope="module")
def model() -> Iterator[tuple[Engine, Tokenizer, ThreadPoolExecutor]]:
    with ThreadPoolExecutor(1) as worker:
        folder = Path(dsv4_mlx.__file__).parent / "nano"
        loaded, tokenizer = worker.submit(load, folder, backend="cpu").result()
        yield Engine(loaded, prefill_chunk=48), tokenizer, worker


def begin(model, thinking: Thinking, turns: tuple[Turn, ...] = ()) -> Conversation:
    engine, tokenizer, worker = model
    settings = AnswerSettings(thinking, sampling=Sampling(0.0), max_tokens=LONGEST)
    return Conversation(engine, tokenizer, settings, turns=turns, submit=worker.submit)


def third_answer(conversation: Conversation) -> Turn:
    answer(conversation, QUESTIONS[2])
    return conversation.turns[2]


@pytest.mark.slow
@pytest.mark.parametrize("thinking", [CHAT, THINKING], ids=["chat", "thinking"])
def test_every_way_to_the_third_answer_gives_the_same(model, thinking: Thinking, tmp_path) -> None:
    straight = begin(model, thinking)
    for text in QUESTIONS:
        answer(straight, text)
    third = straight.turns[2]
    assert straight.context().used > 128

    conversation = begin(model, thinking)
    for text in QUESTIONS[:2]:
        answer(conversation, text)
    twin = conversation.fork()
    answer(conversation, "Something else.")
    conversation.undo()
    assert third_answer(conversation) == third
    assert third_answer(twin) == third

    conversation.save_cache(tmp_path / "cache")
    resumed = begin(model, thinking, conversation.turns)
    resumed.load_cache(tmp_path / "cache")
    resumed.undo()
    assert third_answer(resumed) == third
    resumed.undo()
    list(resumed.retry())
    assert resumed.turns == straight.turns[:2]
