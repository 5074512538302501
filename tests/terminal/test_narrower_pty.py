"""A terminal that becomes much narrower in one step: nothing of the live text stays behind."""

from pathlib import Path

import pytest

from tests.terminal.driver import Terminal, surface_program

pytestmark = pytest.mark.terminal


@pytest.fixture
def terminal(borrowed, home: Path) -> Terminal:
    return borrowed("80x24", lambda: surface_program(home))


@pytest.mark.parametrize("columns", range(20, 60, 2))
def test_no_row_of_the_live_text_stays(terminal: Terminal, columns: int) -> None:
    off = len(terminal.screen.scrollback)
    terminal.type("wide 40\r")
    terminal.wait_for("wide wide", "working")
    terminal.type("x")
    terminal.wait_for_line("> x")
    terminal.resize(columns, 24)
    terminal.type("y")
    terminal.wait_for_line("> xy")
    terminal.type("\x15\x03")
    terminal.wait_for("done with it")
    terminal.wait_for_line(">")
    left = [*terminal.screen.scrollback[off:], *terminal.text.splitlines()]
    terminal.resize(80, 24)
    assert [line for line in left if line.startswith("wide")] == []
    assert sum(line.startswith("> wide 40") for line in left) == 1
    terminal.type("z")
    terminal.wait_for_line("> z")
    terminal.type("\x15")
    terminal.wait_for_line(">")
