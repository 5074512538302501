"""Plain lines on a terminal: lines that come at once are one paste, and what is typed is lines."""

import os
import pty
from collections.abc import Iterator
from io import StringIO

import pytest

from cli.environment import Environment
from cli.show.plain import PlainSurface
from cli.show.surface import Verbatim


class Person(StringIO):
    """stderr, watched by somebody who types the next text when a prompt appears."""

    def __init__(self, keyboard: int, typed: list[str]) -> None:
        super().__init__()
        self._keyboard = keyboard
        self._typed = typed

    def write(self, text: str) -> int:
        if text in ("> ", "  "):
            os.write(self._keyboard, self._typed.pop(0).encode())
        return super().write(text)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    both = pty.openpty()
    yield both
    for descriptor in both:
        os.close(descriptor)


def submitted(terminal: tuple[int, int], *typed: str, ahead: str = "") -> tuple[list[str], str]:
    keyboard, reader = terminal
    os.write(keyboard, ahead.encode())
    person = Person(keyboard, [*typed, "\x04"])
    with open(os.dup(reader), encoding="utf-8") as stdin:
        surface = PlainSurface(Environment(stdin, StringIO(), person, {}))
        return surface.run(lambda: list(surface.submissions())), person.getvalue()


def test_a_paste_of_lines_is_one_message_after_enter(terminal: tuple[int, int]) -> None:
    texts, shown = submitted(terminal, '"""Doc.\n/quit\n  last', "\n", "typed\n")
    assert texts == ['"""Doc.\n/quit\n  last', "typed"]
    assert isinstance(texts[0], Verbatim)
    assert shown.startswith("> [pasted 2 lines; Enter sends them]\n  > ")


def test_the_end_of_a_paste_stays(terminal: tuple[int, int]) -> None:
    texts, _ = submitted(terminal, "\n\n  a\nb\n", "\n")
    assert texts == ["\n\n  a\nb\n"]


def test_a_paste_in_a_block_of_quotes_does_not_end_it(terminal: tuple[int, int]) -> None:
    texts, _ = submitted(terminal, '"""\n', '"""Doc.\n"""\nx = 1\n', '"""\n')
    assert texts == ['"""Doc.\n"""\nx = 1']


def test_the_end_of_input_sends_what_was_pasted(terminal: tuple[int, int]) -> None:
    assert submitted(terminal, "a\nb\n")[0] == ["a\nb"]


def test_lines_that_were_typed_before_the_prompt_are_lines(terminal: tuple[int, int]) -> None:
    texts, _ = submitted(terminal, "", "", "three\n", ahead="/one\ntwo\n")
    assert texts == ["/one", "two", "three"]
    assert not isinstance(texts[0], Verbatim)


def test_a_large_paste_is_whole(terminal: tuple[int, int]) -> None:
    lines = "".join(f"line {number} @none\n" for number in range(100))
    texts, shown = submitted(terminal, lines, "\n")
    assert texts[0].replace("\\@", "@") == lines
    assert "[pasted 100 lines; Enter sends them]" in shown
