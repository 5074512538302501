"""Files behind @ on a terminal: circles of links, words that name none, what was typed stays."""

from pathlib import Path

import pytest

from tests.terminal.driver import Terminal, chat

pytestmark = pytest.mark.terminal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files, and links that lead back into it."""
    folder = tmp_path_factory.mktemp("attached")
    (folder / "circle").mkdir()
    (folder / "circle" / "one.py").write_text("x = 1\n")
    for name in "ab":
        (folder / "circle" / name).symlink_to(".")
    (folder / "src").mkdir()
    return folder


@pytest.fixture
def talk(borrowed, folder: Path) -> Terminal:
    return borrowed("attached", lambda: chat(folder, {"replies": [["Answered."]]}))


def idle(talk: Terminal) -> None:
    """Until the prompt waits and nothing is busy."""

    def waits() -> bool:
        rows = talk.text.splitlines()
        return talk.line == ">" and rows[-2].startswith("think ")

    talk.wait_until(waits, "waiting prompt")


def test_a_circle_of_links_has_an_end(talk: Terminal) -> None:
    talk.type("explain @circle/**/*.py\r")
    talk.wait_for("[attached circle/one.py (5 B, ", "Answered.")
    idle(talk)
    assert talk.text.count("[attached") == 1


def test_a_word_that_names_no_file_is_sent_as_text(talk: Terminal) -> None:
    talk.type("what does @dataclass do?\r")
    talk.wait_for("[@dataclass names no file in ", "Answered.")
    idle(talk)


def test_a_message_that_cannot_be_sent_is_in_the_input_again(talk: Terminal) -> None:
    talk.type("explain @src\r")
    talk.wait_for("src is a folder; attach its files, for example @src/*.")
    talk.wait_for_line("> explain @src")
    talk.type("/*\r")
    talk.wait_for("> explain @src/*\n", "@src/* names no file in ", "Answered.")
    idle(talk)


def test_what_was_begun_meanwhile_stays_and_the_message_is_in_the_history(talk: Terminal) -> None:
    talk.type("explain @src\rsomething else")
    talk.wait_for("src is a folder")
    talk.wait_for_line("> something else")
    talk.type("\x15\x1b[A")
    talk.wait_for_line("> explain @src")
    talk.type("\x15")
    talk.wait_for_line(">")
