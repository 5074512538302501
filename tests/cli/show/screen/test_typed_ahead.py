"""What is typed before the prompt is there is sent as typed, once, and loses nothing."""

import os
import pty
import random
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from cli.environment import Environment
from cli.show.screen.completion import Completions
from cli.show.screen.terminal import TerminalSurface
from cli.show.screen.terminal_modes import TerminalModes
from cli.show.theme import DARK
from tests.cli.show.screen.test_terminal import Screen


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    both = pty.openpty()
    yield both
    for descriptor in both:
        os.close(descriptor)


def submitted(
    terminal: tuple[int, int], folder: Path, ahead: str, after: str, last: str
) -> list[str]:
    """What is taken when `ahead` is typed before the program has its prompt, and `after` behind;
    all until a text that ends with `last`."""
    keyboard, reader = terminal
    os.write(keyboard, ahead.encode())
    screen = Screen()
    screen.when("> ", lambda: os.write(keyboard, after.encode()) and None)
    with open(os.dup(reader), encoding="utf-8") as stdin:
        environment = Environment(stdin, screen, StringIO(), {"TERM": "xterm-256color"})
        surface = TerminalSurface(
            environment, DARK, history=folder / "history", completions=Completions()
        )

        def control() -> list[str]:
            taken: list[str] = []
            for text in surface.submissions():
                taken.append(text)
                if text.endswith(last):
                    break
            return taken

        return surface.run(control)


WORDS = ["hello", "two words", "e\u0301 你好", "/help", "!ls", "'quoted'", "x" * 200, "  in", ""]


@pytest.mark.parametrize("seed", range(20))
def test_every_line_is_sent_as_typed(terminal: tuple[int, int], tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    *lines, rest = choose.choices(WORDS, k=choose.randrange(1, 6))
    ahead = "".join(f"{line}\r" for line in lines) + rest
    sent = submitted(terminal, tmp_path, ahead, "~end\r", "~end")
    assert sent == [line for line in lines if line] + [f"{rest}~end"]


def test_a_block_of_quotes_can_be_typed_ahead(terminal: tuple[int, int], tmp_path: Path) -> None:
    sent = submitted(terminal, tmp_path, '"""\r/quit\r\r"""\rb', "c\r", "bc")
    assert sent == ["/quit\n", "bc"]


@pytest.mark.parametrize("seed", range(6))
def test_the_moment_at_which_the_prompt_appears_does_not_matter(
    terminal: tuple[int, int], tmp_path: Path, seed: int
) -> None:
    keys = "first\rsecond line\rthe third\r"
    cut = random.Random(seed).randrange(len(keys))
    sent = submitted(terminal, tmp_path, keys[:cut], keys[cut:], "third")
    assert sent == ["first", "second line", "the third"]


def test_ctrl_d_that_was_typed_ahead_leaves(terminal: tuple[int, int], tmp_path: Path) -> None:
    assert submitted(terminal, tmp_path, "\x04", "", "never") == []


def test_half_a_line_is_drawn_once(terminal: tuple[int, int], tmp_path: Path) -> None:
    keyboard, reader = terminal
    os.write(keyboard, b"hel")
    screen = Screen()
    screen.write("hel")  # as the terminal itself echoed it
    screen.when("> hel", lambda: os.write(keyboard, b"lo\r\x04"))
    with open(os.dup(reader), encoding="utf-8") as stdin:
        environment = Environment(stdin, screen, StringIO(), {"TERM": "xterm-256color"})
        surface = TerminalSurface(
            environment, DARK, history=tmp_path / "history", completions=Completions()
        )
        assert surface.run(lambda: list(surface.submissions())) == ["hello"]
    assert "hel>" not in "\n".join(screen.seen)


def test_nothing_is_echoed_twice_and_the_terminal_is_as_before(terminal: tuple[int, int]) -> None:
    keyboard, reader = terminal
    with open(os.dup(reader), encoding="utf-8") as stdin:
        modes = TerminalModes(stdin)
        modes.hush()
        os.write(keyboard, b"quiet\r")
        assert os.read(reader, 100) == b"quiet\n"
        modes.remember()
        modes.restore()
        os.write(keyboard, b"loud\r")
        assert os.read(reader, 100) == b"loud\n"
    assert os.read(keyboard, 100) == b"loud\r\n"
