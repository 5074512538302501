"""What keys do to the input and to questions, without a terminal."""

from pathlib import Path

import pytest

from cli.show.screen.completion import Completions
from cli.show.screen.prompt import OpenQuestion, PromptInput
from cli.show.surface import Hooks, Question


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def prompt(tmp_path: Path, clock: Clock) -> PromptInput:
    return PromptInput(tmp_path / "history", Completions(), clock=clock)


def busy(prompt: PromptInput) -> None:
    prompt.submissions.send("x")
    assert prompt.submissions.next() == "x"


def test_ctrl_c_at_an_empty_prompt_hints_then_asks_then_leaves(prompt: PromptInput) -> None:
    prompt.interrupt()
    assert (prompt.hint, prompt.asked) == ("Ctrl-C again to leave", None)
    prompt.interrupt()
    assert prompt.hint == ""
    assert next(text for _, text, *_ in prompt.question()) == "leave?"
    prompt.interrupt()
    assert prompt.submissions.ended


def test_typing_forgets_the_first_ctrl_c(prompt: PromptInput) -> None:
    prompt.interrupt()
    prompt.buffer.text = "x"
    prompt.interrupt()
    assert (prompt.buffer.text, prompt.hint, prompt.asked) == ("", "", None)


def test_no_means_stay(prompt: PromptInput) -> None:
    prompt.interrupt()
    prompt.interrupt()
    prompt.answer("n")
    assert not prompt.submissions.ended
    assert prompt.asked is None


def test_ctrl_c_while_busy_stops_and_keeps_the_line(prompt: PromptInput) -> None:
    calls: list[str] = []
    prompt.hooks = Hooks(interrupt=lambda: calls.append("stop"))
    busy(prompt)
    prompt.buffer.text = "next"
    prompt.interrupt()
    assert (calls, prompt.buffer.text) == (["stop"], "next")


def test_what_waits_is_taken_back_newest_first(prompt: PromptInput) -> None:
    busy(prompt)
    for text in ("one", "two"):
        prompt.submissions.send(text)
    assert prompt.can_take_back()
    prompt.take_back()
    assert (prompt.buffer.text, prompt.submissions.waiting()) == ("two", ["one"])
    assert not prompt.can_take_back()


def test_nothing_can_be_taken_back_from_an_idle_controller(prompt: PromptInput) -> None:
    prompt.submissions.send("about to be taken")
    assert not prompt.can_take_back()


def test_a_prefill_keeps_what_was_typed_in_the_history(prompt: PromptInput) -> None:
    prompt.buffer.text = "half typed"
    prompt.replace("prefilled")
    assert prompt.buffer.text == "prefilled"
    assert prompt.buffer.history.get_strings() == ["half typed"]


def test_leaving_waits_for_what_was_sent_ahead_unless_repeated(prompt: PromptInput) -> None:
    busy(prompt)
    prompt.submissions.send("ahead")
    prompt.leave()
    assert prompt.hint == "leaving when this is done; Ctrl-D again leaves now"
    assert not prompt.submissions.ended
    prompt.leave()
    assert prompt.submissions.next() is None


def test_nothing_can_be_sent_once_left(prompt: PromptInput) -> None:
    prompt.submissions.send("ahead")
    prompt.leave()
    prompt.buffer.text = "late"
    prompt.submit()
    assert prompt.submissions.next() == "ahead"
    assert prompt.submissions.next() is None


def ask(prompt: PromptInput, *, guarded: bool) -> list[str]:
    answers: list[str] = []
    prompt.ask(OpenQuestion(Question("run it?"), answers.append, guarded))
    return answers


def test_a_key_meant_for_the_input_approves_nothing(prompt: PromptInput, clock: Clock) -> None:
    prompt.note_key()
    answers = ask(prompt, guarded=True)
    for _ in range(3):  # typing on
        clock.now += 0.3
        prompt.answer("y")
        prompt.note_key()
    assert answers == []
    clock.now += 1.0
    prompt.answer("y")
    assert answers == ["y"]


def test_without_typing_a_question_takes_its_key_at_once(prompt: PromptInput) -> None:
    prompt.note_key()
    answers = ask(prompt, guarded=False)
    prompt.answer("Y")
    assert answers == ["y"]


def test_leaving_answers_an_open_question_by_its_default(prompt: PromptInput) -> None:
    answers = ask(prompt, guarded=False)
    prompt.leave()
    assert answers == ["n"]


def test_ctrl_c_belongs_to_the_program_that_has_the_terminal(prompt: PromptInput) -> None:
    prompt.lent = True
    prompt.interrupt()
    assert prompt.hint == ""
