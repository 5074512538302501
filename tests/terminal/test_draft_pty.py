"""A draft in the input outlives a lost terminal, a signal and a kill."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.terminal.driver import Terminal, chat

pytestmark = pytest.mark.terminal

SCRIPT = {"replies": ["Answered."]}
AGAIN = "[your draft from before is in the input again]"


def drafts(home: Path) -> list[Path]:
    return list((home / ".local/state/dsv4/drafts").glob("*.json"))


def is_written(home: Path) -> bool:
    """Whether a draft has a text: its file is made and locked first."""
    return any(path.stat().st_size for path in drafts(home))


@pytest.fixture
def started(tmp_path: Path) -> Callable[[], Terminal]:
    """`started()`: the program, each time at the same home."""
    return lambda: chat(tmp_path, SCRIPT)


def test_a_closed_window_keeps_a_draft_and_it_is_offered_once(
    started: Callable[[], Terminal], tmp_path: Path
) -> None:
    with started() as lost:
        lost.wait_for_line(">")
        lost.type("see \x1b\r")
        lost.paste("\n".join(f"line {number}" for number in range(30)))
        lost.type(" and say why")
        lost.wait_for("[pasted 30 lines] and say why")
        lost.hang_up()
    with started() as terminal:
        terminal.wait_for(AGAIN, "> see\n  [pasted 30 lines] and say why")
        terminal.type("\r")
        terminal.wait_for("Answered.")
        terminal.wait_until(lambda: terminal.line == ">", "prompt")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0
    assert drafts(tmp_path) == []


def test_a_kill_and_a_signal_keep_what_was_typed(
    started: Callable[[], Terminal], tmp_path: Path
) -> None:
    with started() as terminal:
        terminal.wait_for_line(">")
        terminal.type("half a thou")
        terminal.wait_for_line("> half a thou")
        while not is_written(tmp_path):  # it is written soon after the last key
            terminal.type("\x1b[D")
            terminal.wait_until(lambda: terminal.screen.cursor.x == 12, "cursor to the left")
            terminal.type("\x1b[C")
            terminal.wait_until(lambda: terminal.screen.cursor.x == 13, "cursor to the right")
        terminal.kill(signal.SIGKILL)
        terminal.wait_for_end()
    with started() as terminal:
        terminal.wait_for(AGAIN)
        terminal.wait_for_line("> half a thou")
        terminal.type("ght")
        terminal.wait_for_line("> half a thought")
        terminal.kill(signal.SIGTERM)
        terminal.wait_for_end()
    with started() as terminal:
        terminal.wait_for_line("> half a thought")
        terminal.type("\x03")
        terminal.wait_for_line(">")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0
    assert drafts(tmp_path) == []
