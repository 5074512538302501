"""A first start says what this is; a later one, another model and a pipe do not."""

from pathlib import Path

import pytest

from cli.talk.welcome import HINT, WELCOME, is_first
from tests.cli.running import Run, run
from tests.cli.scripted import opening, write_chat_folder


def start(*arguments: str | Path, **options) -> Run:
    return run(*arguments, open_model=opening("a</think>Yes."), **options)


def test_two_lines_until_something_was_said() -> None:
    shown = "".join(f"{line}\n" for line in WELCOME)
    assert start(typed="").stderr.startswith(shown + "> ")
    assert start(typed="/help copy\nhello\n").stderr.startswith(shown)
    assert WELCOME[0] not in start(typed="").stderr


@pytest.mark.parametrize("options", [("--plain",), ("--no-save",)])
def test_options_change_nothing_of_that(options: tuple[str, ...]) -> None:
    done = start(*options, typed="")
    assert WELCOME[0] in done.stderr
    assert HINT not in done.stderr


def test_another_model_and_a_pipe_are_not_greeted(tmp_path: Path) -> None:
    folder = write_chat_folder(tmp_path)
    assert WELCOME[0] not in start("--model", folder, typed="").stderr
    assert WELCOME[0] not in start(piped="hello").stderr
    assert WELCOME[0] not in start("-p", "hello").stderr


def test_they_fit_a_common_screen(tmp_path: Path) -> None:
    assert all(len(line) <= 80 for line in WELCOME)
    assert is_first(tmp_path)
    (tmp_path / "history").touch()
    assert not is_first(tmp_path)
    assert not is_first(None)
