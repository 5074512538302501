"""Beginnings of prompts kept as files are not read again, and never change an answer."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.prefixes import stable_length
from dsv4_mlx.chat.prompting import PromptWriter
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.turns import Turn
from tests.chat.talking import CHAT, answer, read_by, talk

FILES = "".join(f"line {n} of the file\n" for n in range(40))


class Store:
    """A folder of beginnings, by their tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: dict[tuple[int, ...], Path] = {}

    def find(self, tokens: Sequence[int]) -> Path | None:
        fitting = [kept for kept in self.paths if kept == tuple(tokens[: len(kept)])]
        return self.paths[max(fitting, key=len)] if fitting else None

    def keep(self, tokens: Sequence[int]) -> Path | None:
        if tuple(tokens) in self.paths:
            return None
        path = self.folder / str(len(self.paths))
        self.paths[tuple(tokens)] = path
        return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def fresh(tokenizer: Tokenizer, store: Store | None) -> Conversation:
    return talk(tokenizer, "One.", "Two.", prefixes=store, system="Be brief. " * 10)


def asked(tokenizer: Tokenizer, store: Store | None, text: str):
    conversation = fresh(tokenizer, store)
    read, done = read_by(conversation, conversation.send(FILES + text, shared=FILES))
    assert read == done.usage.prompt_tokens - done.usage.cached_tokens
    return done.usage, conversation.turns


def test_the_second_question_about_the_same_files_reads_only_itself(
    tokenizer: Tokenizer, store: Store
) -> None:
    first, _ = asked(tokenizer, store, "\nWhat is this?")
    second, turns = asked(tokenizer, store, "\nAnd how long is it, please?")
    assert first.cached_tokens == 0
    assert second.cached_tokens == max(map(len, store.paths))
    assert second.prompt_tokens - second.cached_tokens < 40
    assert turns == asked(tokenizer, None, "\nAnd how long is it, please?")[1]


def test_the_system_part_alone_is_shared_too(tokenizer: Tokenizer, store: Store) -> None:
    asked(tokenizer, store, "What is this?")
    conversation = fresh(tokenizer, store)
    _, done = answer(conversation, "Hello")
    system = min(map(len, store.paths))
    assert done.usage.cached_tokens == system
    assert tokenizer.decode(min(store.paths, key=len)).endswith("Be brief. ")


def test_later_turns_store_nothing(tokenizer: Tokenizer, store: Store) -> None:
    conversation = fresh(tokenizer, store)
    answer(conversation, "Hello")
    stored = dict(store.paths)
    answer(conversation, FILES + "and now?", shared=FILES)
    assert store.paths == stored


@pytest.mark.parametrize("content", ["", "[", "[1, 2]", "null"])
def test_a_damaged_file_is_removed_and_nothing_said(
    tokenizer: Tokenizer, store: Store, content: str
) -> None:
    asked(tokenizer, store, "What is this?")
    longest = store.paths[max(store.paths, key=len)]
    longest.write_text(content, encoding="utf-8")
    _, turns = asked(tokenizer, store, "And this?")
    assert not longest.exists()
    assert turns == asked(tokenizer, None, "And this?")[1]


def test_a_file_of_other_tokens_changes_no_answer(tokenizer: Tokenizer, store: Store) -> None:
    asked(tokenizer, store, "What is this?")
    (longest,) = [path for kept, path in store.paths.items() if len(kept) > 100]
    other = talk(tokenizer, "x")
    answer(other, "Something else entirely. " * 30)
    other.save_cache(longest)
    usage, turns = asked(tokenizer, store, "And this?")
    assert usage.cached_tokens == 0
    assert turns == asked(tokenizer, None, "And this?")[1]


def test_a_store_that_fails_stops_no_answer(tokenizer: Tokenizer) -> None:
    class Broken:
        def find(self, tokens):
            raise PermissionError("no")

        def keep(self, tokens):
            raise OSError("full")

    assert asked(tokenizer, Broken(), "a")[0].cached_tokens == 0
    assert asked(tokenizer, Store(Path("/nowhere")), "a")[0].cached_tokens == 0


def test_shared_text_that_the_message_does_not_begin_with(
    tokenizer: Tokenizer, store: Store
) -> None:
    conversation = fresh(tokenizer, store)
    answer(conversation, "Hello", shared=FILES)
    kept = max(store.paths, key=len)
    assert tokenizer.decode(kept) in str(tokenizer.decode(conversation._model_side._session.tokens))


TEXT = st.text(st.sampled_from("ab1. \n\t\r-_é你"), max_size=40)


@given(TEXT, TEXT, TEXT)
def test_the_border_does_not_depend_on_what_follows(
    tokenizer: Tokenizer, shared: str, one: str, other: str
) -> None:
    writer, settings = PromptWriter(tokenizer, "2026-04"), AnswerSettings(CHAT)

    def tokens(text: str) -> list[int]:
        prompt = writer.write([Turn.asking(text)], settings)
        return prompt.tokens[: prompt.question_end]

    shared = f"a line\n{shared}\nthe last line\n"
    first = tokens(shared + one)
    length = stable_length(first, tokens(shared), tokenizer.token_bytes)
    assert length > 3
    assert tokens(shared + other)[:length] == first[:length]
