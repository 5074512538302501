"""Ways for the chat program to end on a terminal, and what is there when it comes back."""

import signal

import pytest

from tests.terminal.driver import Terminal
from tests.terminal.steps import leave, send

pytestmark = pytest.mark.terminal


def test_a_crash_of_the_engine_leaves_a_terminal_that_works(own) -> None:
    terminal = own({"text": "half an", "crash": "unforeseen"})
    terminal.type("go\r")
    assert terminal.wait_for_end() == 1
    assert "unforeseen" in terminal.whole_text
    assert terminal.is_cooked
    modes = terminal.modes
    assert (modes[2004], modes[25], modes[7]) == (False, True, True)


def test_a_kill_loses_at_most_the_answer(own) -> None:
    replies = ("Answer one.", {"text": "on and on ", "repeat": 9_000, "delay_ms": 1})
    terminal = own(*replies)
    send(terminal, "question one", "Answer one.")
    terminal.type("question two\r")
    terminal.wait_for("on and on on and on")
    terminal.kill(signal.SIGKILL)
    assert terminal.wait_for_end() == -signal.SIGKILL
    again = own(*replies, arguments=("--continue",), prompt="> question two")
    again.wait_for("the last message had no answer yet; it is in the input again")
    again.type("\x15/undo\r")
    again.wait_for("[took back: question one]")
    again.type("\x15")
    again.wait_for_line(">")
    leave(again)


CUT_OFF = ({"text": "on and on ", "repeat": 9_000, "delay_ms": 1}, "Back.")


def in_an_answer(own) -> Terminal:
    terminal = own(*CUT_OFF)
    terminal.type("question\r")
    terminal.wait_for("on and on on and on")
    return terminal


def goes_on(own) -> None:
    """What was said before the end is there, and the talk goes on."""
    again = own(*CUT_OFF, arguments=("--continue",))
    again.wait_for("1 turn")
    send(again, "still there?", "Back.")
    leave(again)


def test_sigterm_in_an_answer_keeps_what_was_said(own) -> None:
    terminal = in_an_answer(own)
    terminal.kill(signal.SIGTERM)
    terminal.wait_for_end()
    assert terminal.is_cooked
    goes_on(own)


def test_a_closed_window_keeps_what_was_said(own) -> None:
    assert in_an_answer(own).hang_up() == 0
    goes_on(own)


@pytest.mark.slow
def test_a_session_is_named_found_and_loaded(own) -> None:
    terminal = own("Answer one.", "Answer two.")
    send(terminal, "question", "Answer one.")
    send(terminal, "/rename sky talk", "sky talk")
    send(terminal, "/new", "[")
    terminal.type("/load s\t")
    terminal.wait_for_line("> /load sky talk")
    terminal.type("\r")
    terminal.wait_for("sky talk: 1 turn")
    send(terminal, "and on", "Answer two.")
    leave(terminal)
