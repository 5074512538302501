"""Pastes on a terminal: text for the model, whatever they begin with."""

from pathlib import Path

import pytest

from tests.terminal.driver import Terminal, chat

pytestmark = pytest.mark.terminal

DOCSTRING = '"""A module.\n\nIt does things.\n"""\n\nimport os\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pasted")


@pytest.fixture
def talk(borrowed, folder: Path) -> Terminal:
    return borrowed("pasted", lambda: chat(folder, {"replies": [["Answered."]]}))


def idle(talk: Terminal) -> None:
    """Until the prompt waits and nothing is busy."""

    def waits() -> bool:
        rows = talk.text.splitlines()
        return talk.line == ">" and rows[-2].startswith("think ")

    talk.wait_until(waits, "waiting prompt")


def answered(talk: Terminal, number: int = 1) -> None:
    talk.wait_until(lambda: talk.text.count("Answered.") == number, "answer")
    idle(talk)


def test_a_docstring_is_sent_with_enter(talk: Terminal) -> None:
    talk.paste(DOCSTRING)
    talk.wait_for('> """A module.', "  import os")
    talk.type("\r")
    answered(talk)


def test_a_pasted_command_is_a_message_now_and_from_the_history(talk: Terminal) -> None:
    talk.paste("/quit")
    talk.wait_for_line("> /quit")
    talk.type("\r")
    answered(talk)
    talk.type("\x1b[A")
    talk.wait_for_line("> /quit")
    talk.type("\r")
    answered(talk, 2)
    talk.type("!")
    talk.paste("/no/such/program")
    talk.wait_for_line("> !/no/such/program")
    talk.type("\r")
    talk.wait_for("run this command?")
    talk.type("n")
    talk.wait_for("[not run]")
    idle(talk)


def test_undo_puts_a_pasted_command_back_as_text(talk: Terminal) -> None:
    talk.paste("/new @folder")
    talk.type("\r")
    answered(talk)
    talk.type("/undo\r")
    talk.wait_for_line("> /new @folder")
    talk.type("\r")
    answered(talk, 2)
    assert "new conversation" not in talk.text


def test_a_paste_while_it_answers_waits_in_the_input(own_stream: Terminal) -> None:
    talk = own_stream
    talk.type("go on\r")
    talk.wait_for("word after word")
    talk.paste('"""open\n/quit')
    talk.wait_for('> """open\n  /quit')
    talk.type("\r")
    talk.wait_for('  queued: """open ⏎ /quit')
    talk.type("\x03")
    talk.wait_for('> """open\n  /quit\n', "Answered.")
    idle(talk)


@pytest.fixture
def own_stream(borrowed, folder: Path) -> Terminal:
    replies = [{"text": "word after word ", "repeat": 9_000, "delay_ms": 1}, "Answered."]
    return borrowed("streaming", lambda: chat(folder, {"replies": replies}))
