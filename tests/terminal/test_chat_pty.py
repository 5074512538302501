"""The chat command on a terminal, as a person meets it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.scripted import write_chat_folder
from tests.terminal.driver import PROGRAM, scripted_chat

pytestmark = pytest.mark.terminal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


def test_a_question_is_answered_at_the_prompt_and_ctrl_d_leaves(folder: Path) -> None:
    with scripted_chat(folder, ["Hm, a sum.</think>Four."]) as terminal:
        terminal.wait_for(">")
        terminal.type("what is 2+2?\r")
        terminal.wait_for("> what is 2+2?\nthought for ")
        terminal.wait_for("\nFour.\n\nthink high")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0


def test_ctrl_c_stops_the_answer_keeps_it_and_returns_to_the_prompt(folder: Path) -> None:
    with scripted_chat(folder, ["go on …", "Back."], "--think", "none") as terminal:
        terminal.wait_for(">")
        terminal.type("start\r")
        terminal.wait_for("go on …go on …")
        terminal.type("\x03")
        terminal.wait_for("[stopped]\n\nthink none")
        terminal.type("and now?\r")
        terminal.wait_for("Back.\n\nthink none")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0


def test_ctrl_c_at_the_prompt_drops_the_line_only(folder: Path) -> None:
    with scripted_chat(folder, ["Yes."], "--think", "none") as terminal:
        terminal.wait_for(">")
        terminal.type("half a thou")
        terminal.wait_for("half a thou")
        terminal.type("\x03")
        terminal.wait_until(lambda: "half" not in terminal.text, "an empty line")
        terminal.type("ready?\r")
        terminal.wait_for("> ready?\n\nYes.\n\nthink none")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0


def test_one_question_interrupted_is_130_with_what_was_said(folder: Path) -> None:
    with scripted_chat(folder, ["go on …"], "--think", "none", "-p", "x") as terminal:
        # A terminal is on stdin, so -p alone is the message.
        terminal.wait_for("go on …go on …")
        terminal.type("\x03")
        assert terminal.wait_for_end() == 130
        assert terminal.text.startswith("go on …go on …")
        assert terminal.text.endswith("\n[stopped]")


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_styles_where_they_are_unwelcome(folder: Path, variables: dict[str, str]) -> None:
    with scripted_chat(folder, ["a</think>b"], "-p", "x", variables=variables) as terminal:
        assert terminal.wait_for_end() == 0
    assert b"\x1b" not in terminal.received
    assert terminal.text == "a\nb"


def test_a_dumb_terminal_gets_a_plain_prompt(folder: Path) -> None:
    with scripted_chat(folder, ["a</think>b"], variables={"TERM": "dumb"}) as terminal:
        terminal.wait_for(">")
        terminal.type("x\r")
        terminal.wait_for("1 token]\nb\n>")
        terminal.type("\x03")
        terminal.wait_for("again to leave")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    assert b"\x1b" not in terminal.received


def test_escape_sequences_of_the_model_leave_the_terminal_alone(folder: Path) -> None:
    reply = "\x1b]0;owned\x07\x1b[2J\x1b[31m</think>\x1b[Hsafe\x9b2J"
    with scripted_chat(folder, [reply], "-p", "x") as terminal:
        assert terminal.wait_for_end() == 0
    assert terminal.text == "␛]0;owned␇␛[2J␛[31m\n␛[Hsafe\ufffd2J"
    assert terminal.screen.title == ""


def test_words_flow_over_a_narrow_screen(folder: Path) -> None:
    with scripted_chat(
        folder, ["wide 你好 words " * 6], "--think", "none", "-p", "x", columns=40, lines=12
    ) as terminal:
        assert terminal.wait_for_end() == 0
    assert "".join(terminal.text.split()).count("wide") == 6


def test_a_reader_that_leaves_early_hears_no_complaint(folder: Path) -> None:
    command = [
        sys.executable,
        PROGRAM,
        '["go on …"]',
        "--model",
        folder,
        "--think",
        "none",
        "-p",
        "x",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.read(4) == b"go o"
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait() == 1
