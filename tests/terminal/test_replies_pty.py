"""What a reply is, on a terminal: letters that look like markup, stop texts, loops."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.terminal.driver import Terminal, chat
from tests.terminal.steps import leave, send

pytestmark = pytest.mark.terminal

CLOSE = "</｜DSML｜parameter>"
END = "<｜end▁of▁sentence｜>"
SPELLED = f"<think>It ends with {CLOSE}, or so.</think>Write </think>, {END} and {CLOSE} last."
CALL = {
    "text": "I calculate.",
    "tool_calls": [{"name": "calculator", "arguments": {"expression": f"1 {CLOSE} {END} + 2"}}],
}
LISTED = "<think>END is near.</think>One.\n\nTwo.\n\nThe END of it.\n\nThree."
LOOP = {"text": "It goes on and on.\n\n", "repeat": 250}
SCRIPTS = {"markup": [SPELLED, CALL, "So be it."], "stops": [LISTED, LISTED, LOOP]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replies")


@pytest.fixture
def shared(borrowed: Callable[..., Terminal], folder: Path) -> Callable[[str], Terminal]:
    """`shared(name)`: the program with that script, at a new conversation."""

    def at(name: str) -> Terminal:
        script = {"effort_table": "2026-04", "replies": SCRIPTS[name]}
        terminal = borrowed(name, lambda: chat(folder, script))
        terminal.type("/new\r")
        terminal.wait_for("[new conversation]")
        return terminal

    return at


def test_letters_of_control_tokens_are_text(shared: Callable[[str], Terminal]) -> None:
    terminal = shared("markup")
    send(terminal, "how is it written?", f"Write </think>, {END} and {CLOSE} last.")
    terminal.type("\x0f")  # Ctrl-O
    terminal.wait_for(f"It ends with {CLOSE}, or so.")


def test_an_argument_may_spell_the_end_of_itself(shared: Callable[[str], Terminal]) -> None:
    terminal = shared("markup")
    send(terminal, "first", "last.")
    send(terminal, "then", "tool call: calculator", f"expression: 1 {CLOSE} {END} + 2", "So be it.")


def test_a_stop_text_ends_answers_and_not_reasoning(shared: Callable[[str], Terminal]) -> None:
    terminal = shared("stops")
    send(terminal, "/stop", "[no stop texts]")
    send(terminal, "/stop END", '[answers end before "END"]')
    send(terminal, "go", "One.", 'The\n[ended before the stop text "END"]')
    assert "Three." not in terminal.text
    terminal.type("\x0f")
    terminal.wait_for("END is near.")
    send(terminal, "/stop off", "[no stop texts]")
    send(terminal, "on", "Three.")


def test_a_stop_text_may_be_an_empty_line(shared: Callable[[str], Terminal]) -> None:
    terminal = shared("stops")
    send(terminal, r'/stop "\n\n"', r'[answers end before "\n\n"]')
    send(terminal, "go", "One.\n" r'[ended before the stop text "\n\n"]')
    send(terminal, r"/stop off", "[no stop texts]")


def test_stop_texts_stay_with_their_conversation(tmp_path: Path) -> None:
    script = {"effort_table": "2026-04", "replies": [LISTED]}
    with chat(tmp_path, script, "--stop", "Two") as terminal:
        terminal.wait_for_line(">")
        send(terminal, "go", "One.", 'ended before the stop text "Two"')
        leave(terminal)
    with chat(tmp_path, script, "--continue") as terminal:
        terminal.wait_for(": 1 turn]")
        send(terminal, "/stop", '[answers end before "Two"]')
        send(terminal, "on", "One.", 'ended before the stop text "Two"')
        leave(terminal)


def test_a_loop_is_noticed_and_ended_when_asked(shared: Callable[[str], Terminal]) -> None:
    terminal = shared("stops")
    send(terminal, "/loop", "[when a reply says the same without end, a note says so]")
    send(terminal, "/loop stop", "it is ended]")
    send(terminal, "one", "Three.")
    send(terminal, "two", "Three.")
    send(terminal, "go", "[ended, since it repeated itself]")
    assert "[the answer runs in a loop: the same " in terminal.whole_text
