"""Prompts of several threads: nobody waits for a text of somebody else's."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from dsv4_mlx.chat import Prompt
from dsv4_mlx.chat.effort import EFFORT_TABLES
from dsv4_mlx.serving.job import ServedPrompt
from dsv4_mlx.serving.prompts import Prompts
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.said import SaidMemory
from tests.serving.served import tokenizer

HUGE = "huge " * 9


class Held:
    """A tokenizer that keeps a huge text until it is let go of, and tells what it encodes."""

    bos_id = tokenizer().bos_id

    def __init__(self) -> None:
        self.begun, self.let_go = Event(), Event()
        self.texts: list[str] = []

    def encode(self, prompt: Prompt) -> list[int]:
        self.texts.append(str(prompt))
        if HUGE in str(prompt):
            self.begun.set()
            assert self.let_go.wait(60)
        return tokenizer().encode(prompt)


def writing(tokens: Any) -> Prompts:
    return Prompts(tokens, EFFORT_TABLES[0], SaidMemory())


def asking(*texts: str) -> GenerationRequest:
    """A conversation in which the user says these, each answered but the last."""
    messages: list[dict[str, Any]] = []
    for text in texts:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    return GenerationRequest(messages[:-1])


def alike(prompts: Prompts, request: GenerationRequest) -> bool:
    """Whether it is what somebody else would write who never wrote anything before."""
    return prompts.write(request) == writing(tokenizer()).write(request)


@pytest.fixture
def held() -> Held:
    return Held()


def while_one_is_held(
    held: Held, prompts: Prompts, request: GenerationRequest, work: Callable[[], object]
) -> ServedPrompt:
    """What a thread gives that writes `request`, held while `work` is done in this one."""
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(prompts.write, request)
        try:
            assert held.begun.wait(60)
            work()
            assert not found.done()
        finally:
            held.let_go.set()
        return found.result()


@pytest.mark.parametrize("other", [("Hello?", "More?"), (HUGE[:8], "Hello?")], ids=["new", "same"])
def test_a_huge_text_keeps_nobody_waiting(held: Held, other: tuple[str, ...]) -> None:
    """Not in another conversation, and not in its own."""
    prompts, request = writing(held), asking(HUGE[:8], HUGE)

    def write_another() -> None:
        assert alike(prompts, asking(*other))
        assert prompts.count(GenerationRequest((), text="Hello")) > 1

    found = while_one_is_held(held, prompts, request, write_another)
    assert found == writing(tokenizer()).write(request)


def test_what_was_written_at_once_is_not_encoded_again(held: Held) -> None:
    """The writer knows a whole prompt, that which was done last, and no mixture of two."""
    prompts, huge, short = writing(held), asking("Hello?", HUGE), asking("Hello?", "Short.")
    assert alike(prompts, asking("Hello?"))
    while_one_is_held(held, prompts, huge, lambda: prompts.write(short))
    held.texts.clear()
    assert alike(prompts, huge)
    assert held.texts == []
    assert alike(prompts, short)
    assert held.texts == ["Short."]
