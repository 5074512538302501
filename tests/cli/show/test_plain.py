"""The prompt on plain lines: nothing but text, and every way to end."""

import signal
from io import StringIO

import pytest
from rich.text import Text

from cli.environment import Environment
from cli.show.plain import PlainSurface
from cli.show.surface import Hooks, Question, Status


class Lines(StringIO):
    """stdin whose lines may also be signals that arrive while it is read."""

    def __init__(self, *lines: str | signal.Signals) -> None:
        super().__init__()
        self._lines = list(lines)

    def readline(self, size: int | None = -1, /) -> str:
        line = self._lines.pop(0) if self._lines else ""
        if isinstance(line, str):
            return line
        signal.raise_signal(line)
        raise AssertionError("the signal was ignored")


def plain(*lines: str | signal.Signals) -> tuple[PlainSurface, StringIO]:
    shown = StringIO()
    return PlainSurface(Environment(Lines(*lines), StringIO(), shown, {})), shown


def submitted(*lines: str | signal.Signals) -> tuple[list[str], str]:
    surface, shown = plain(*lines)
    return surface.run(lambda: list(surface.submissions())), shown.getvalue()


def test_lines_are_messages_until_the_end() -> None:
    assert submitted("one\n", "\n", "two\r\n") == (["one", "two"], "> > > > ")


def test_quotes_hold_lines_together() -> None:
    assert submitted('"""one\n', "\n", 'two"""\n') == (["one\n\ntwo"], ">     > ")


def test_an_open_block_at_the_end_is_not_sent() -> None:
    assert submitted('"""one\n') == ([], ">   ")


def test_ctrl_c_drops_the_line_then_asks() -> None:
    texts, shown = submitted(signal.SIGINT, signal.SIGINT, "y\n", "never\n")
    assert texts == []
    assert shown == "> \n[Ctrl-C again to leave]\n> \nleave?\n(y for yes, n for no) "


def test_a_message_forgets_the_first_ctrl_c() -> None:
    texts, shown = submitted(signal.SIGINT, "one\n", signal.SIGINT, "two\n")
    assert texts == ["one", "two"]
    assert "leave?" not in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_messages(number: signal.Signals) -> None:
    assert submitted("one\n", number, "never\n") == (["one"], "> > ")


def test_ctrl_c_while_busy_is_for_the_answer() -> None:
    surface, _ = plain("one\n", "two\n")
    stops: list[str] = []
    taken: list[str] = []

    def control() -> None:
        for text in surface.submissions():
            taken.append(text)
            signal.raise_signal(signal.SIGINT)

    surface.run(control, Hooks(interrupt=lambda: stops.append("stop")))
    assert (taken, stops) == (["one", "two"], ["stop", "stop"])


def test_a_signal_while_busy_stops_the_answer_and_ends() -> None:
    surface, _ = plain("one\n", "two\n")
    stops: list[str] = []
    taken: list[str] = []

    def control() -> None:
        for text in surface.submissions():
            taken.append(text)
            signal.raise_signal(signal.SIGTERM)

    surface.run(control, Hooks(interrupt=lambda: stops.append("stop")))
    assert (taken, stops) == (["one"], ["stop"])


def test_handlers_are_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    submitted("one\n")
    assert [signal.getsignal(number) for number in numbers] == before


QUESTION = Question(
    "run it?", ("$ rm \x1b[2J",), (("y", "yes"), ("n", "no"), ("a", "always")), default="n"
)


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        (["y\n"], "y"),
        (["Always\n"], "a"),
        (["what\n", "yes\n"], "y"),
        (["\n"], "n"),
        ([], "n"),
        ([signal.SIGINT], "n"),
        ([signal.SIGTERM], "n"),
    ],
)
def test_questions_are_text(lines: list[str | signal.Signals], answer: str) -> None:
    surface, shown = plain(*lines)
    assert surface.run(lambda: surface.ask(QUESTION)) == answer
    assert shown.getvalue().startswith("  $ rm ␛[2J\nrun it?\n(y for yes, n for no, a for always) ")


def test_what_is_shown_is_text_without_codes() -> None:
    surface, shown = plain()
    surface.show(Text("bold \x1b[2J", style="bold red"))
    surface.live(Text("coming"))
    surface.status(Status("m", "none"))
    surface.prefill("old\x07")
    assert shown.getvalue() == "bold ␛[2J\n[to send again, changed]\nold␇\n"


def test_a_reader_of_stderr_that_left_is_no_error() -> None:
    class Closed(StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    surface = PlainSurface(Environment(Lines("one\n"), StringIO(), Closed(), {}))
    assert list(surface.submissions()) == ["one"]


def test_width_is_what_the_shell_says() -> None:
    for columns, width in (("40", 40), ("", 80), ("0", 80), ("wide", 80)):
        environment = Environment(StringIO(), StringIO(), StringIO(), {"COLUMNS": columns})
        assert PlainSurface(environment).width == width
