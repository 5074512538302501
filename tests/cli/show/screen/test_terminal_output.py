"""What reaches the terminal is whole changes, and nothing where nothing changed."""

from pathlib import Path

import pytest

from cli.show.screen.terminal_output import TerminalOutput


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "terminal"


def draw(output: TerminalOutput, text: str) -> None:
    """A screen as prompt-toolkit draws it again, with `text` as what changed."""
    with output.one_write():
        output.hide_cursor()
        output.disable_autowrap()
        output.write(text)
        output.enable_autowrap()
        output.reset_attributes()
        output.show_cursor()


def test_a_screen_that_did_not_change_is_not_written(written: Path) -> None:
    with written.open("w", encoding="utf-8") as stdout:
        output = TerminalOutput(stdout, {"TERM": "xterm"})
        draw(output, "a")
        first = written.read_bytes()
        assert b"a" in first
        for _ in range(3):
            draw(output, "")
        assert written.read_bytes() == first
        draw(output, "b")
        assert written.read_bytes().startswith(first) and b"b" in written.read_bytes()


def test_one_change_is_one_synchronized_write(written: Path) -> None:
    with written.open("w", encoding="utf-8") as stdout:
        output = TerminalOutput(stdout, {"TERM": "xterm"})
        with output.one_write():
            draw(output, "a")
            draw(output, "b")
        content = written.read_bytes()
        assert content.startswith(b"\x1b[?2026h") and content.endswith(b"\x1b[?2026l")
        assert content.count(b"\x1b[?2026h") == 1
