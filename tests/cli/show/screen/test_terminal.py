"""The terminal surface on keys from a pipe: what is submitted, what each write leaves visible."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pyte
import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.input.base import PipeInput
from rich.console import Console, ConsoleOptions
from rich.text import Text

from cli.environment import Environment
from cli.show.screen.completion import Completions
from cli.show.screen.terminal import TerminalSurface
from cli.show.surface import NO_HOOKS, Hooks, Question, Status
from cli.show.theme import DARK, PLAIN, Theme
from tests.terminal.screen import Screen as ReflowingScreen

LARGE = "\n".join(f"line {number}" for number in range(2000))


class Screen(StringIO):
    """stdout as a screen, with what it showed after each write."""

    def __init__(self) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(80, 24, history=10_000)
        self._stream = pyte.Stream(self.screen)
        self.seen: list[str] = []
        """What stood on it after each write."""
        self._awaited: tuple[str, Callable[[], None]] | None = None

    def use(self, screen: pyte.Screen) -> None:
        """Show what is written on `screen`, from its beginning."""
        self.screen, self._stream = screen, pyte.Stream(screen)

    def when(self, text: str, action: Callable[[], None]) -> None:
        """Do `action` once `text` is shown."""
        self._awaited = (text, action)

    def write(self, text: str) -> int:
        self._stream.feed(text.replace("\n", "\r\n"))
        self.seen.append("\n".join(line.rstrip() for line in self.screen.display).rstrip())
        if self._awaited is not None and self._awaited[0] in self.seen[-1]:
            (_, action), self._awaited = self._awaited, None
            action()
        return super().write(text)


class Running:
    """A surface, the keys that go to it and the screen."""

    def __init__(self, keys: PipeInput, history: Path, theme: Theme) -> None:
        self.keys = keys
        self.screen = Screen()
        environment = Environment(StringIO(), self.screen, StringIO(), {"TERM": "xterm-256color"})
        completions = Completions({"undo": "take the last turn back"})
        self.surface = TerminalSurface(
            environment, theme, history=history, completions=completions, input=keys
        )

    def submitted(
        self,
        typed: str,
        *,
        controller: Callable[[str], None] | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> list[str]:
        """What the controller takes until the end."""
        taken: list[str] = []

        def control() -> None:
            self.keys.send_text(typed)
            for text in self.surface.submissions():
                taken.append(text)
                if controller is not None:
                    controller(text)

        self.surface.run(control, hooks)
        return taken


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with create_pipe_input() as keys:
        yield Running(keys, tmp_path / "history", DARK)


def test_enter_sends_and_ctrl_d_leaves(running: Running) -> None:
    assert running.submitted("one\rtwo words\r\x04") == ["one", "two words"]


def test_empty_messages_are_not_sent(running: Running) -> None:
    assert running.submitted("\r  \rx\r\x04") == ["x"]


@pytest.mark.parametrize("newline", ["\x1b\r", "\n"])
def test_a_message_has_lines(running: Running, newline: str) -> None:
    assert running.submitted(f"one{newline}two\r\x04") == ["one\ntwo"]


def test_quotes_hold_a_message_together(running: Running) -> None:
    assert running.submitted('"""\rone\r\rtwo\r"""\r\x04') == ["one\n\ntwo"]


def test_a_large_paste_is_sent_whole_between_what_is_typed(running: Running) -> None:
    paste = f"\x1b[200~{LARGE}\x1b[201~"
    assert running.submitted(f"see {paste} here\r\x04") == [f"see {LARGE} here"]


def test_ctrl_d_in_a_line_deletes_and_does_not_leave(running: Running) -> None:
    assert running.submitted("ab\x01\x04\r\x04") == ["b"]


def one_by_one(running: Running, *typed: str) -> list[str]:
    """What is taken when each of `typed` comes after the one before was taken."""
    rest = list(typed)

    def controller(text: str) -> None:
        keys = rest.pop(0) if rest else "\x04"
        mark = f"{len(rest)} to go"
        running.screen.when(mark, lambda: running.keys.send_text(keys))
        running.surface.show(Text(mark))

    return running.submitted("begin\r", controller=controller)[1:]


def test_history_is_offered_in_order_each_text_once(running: Running) -> None:
    up = "\x1b[A"
    typed = ("a\r", "b\r", "a\r", f"{up}\r", f"{up}{up}\r")
    assert one_by_one(running, *typed) == ["a", "b", "a", "a", "b"]


def test_a_large_message_comes_back_from_the_history_whole(running: Running) -> None:
    typed = (f"\x1b[200~{LARGE}\x1b[201~\r", "\x1b[A\r")
    assert one_by_one(running, *typed) == [LARGE, LARGE]


def test_bytes_that_are_no_text_are_replaced(running: Running) -> None:
    def control() -> list[str]:
        running.keys.send_bytes(b"a\xffb\r\x04")
        return list(running.surface.submissions())

    assert running.surface.run(control) == ["a\ufffdb"]


def test_the_end_of_the_keys_is_the_end(running: Running) -> None:
    def control() -> list[str]:
        running.keys.send_text("half a")
        running.keys.close()
        return list(running.surface.submissions())

    assert running.surface.run(control) == []


def test_run_returns_and_raises_what_the_controller_does(running: Running) -> None:
    def fail() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        running.surface.run(fail)
    assert running.surface.run(lambda: 5) == 5


def leave(running: Running) -> None:
    running.keys.send_text("\x04")


def test_ctrl_c_reaches_a_busy_controller_each_time(running: Running) -> None:
    pressed = threading.Semaphore(0)

    def controller(text: str) -> None:
        for _ in range(2):
            running.keys.send_text("\x03")
            assert pressed.acquire(timeout=10)
        leave(running)

    hooks = Hooks(interrupt=pressed.release)
    assert running.submitted("go\r", controller=controller, hooks=hooks) == ["go"]


def test_finished_text_replaces_live_text_in_one_write(running: Running) -> None:
    """From the moment it is live a block is visible exactly once, whenever it is drawn."""

    def controller(text: str) -> None:
        running.surface.live(Text("block 0"))
        for number in range(300):
            running.keys.send_text("x")  # each key may draw in between
            running.surface.show(Text(f"block {number}"))
            running.surface.live(Text(f"block {number + 1}"))
        running.surface.live(None)
        running.keys.send_text("\x15\x04")

    running.submitted("go\r", controller=controller)
    for seen in running.screen.seen:
        numbers = [int(line[6:]) for line in seen.splitlines() if line.startswith("block ")]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


def test_what_is_said_before_it_runs_is_shown_when_it_does(running: Running) -> None:
    surface = running.surface
    surface.show(Text("resumed"))
    surface.prefill("unanswered")

    def control() -> list[str]:
        running.screen.when("resumed", lambda: running.keys.send_text("!\r\x04"))
        surface.show(Text("begun"))
        return list(surface.submissions())

    assert surface.run(control) == ["unanswered!"]
    assert any("resumed\nbegun\n> unanswered!" in seen for seen in running.screen.seen)


def test_many_shows_are_few_writes_in_their_order(running: Running) -> None:
    def controller(text: str) -> None:
        for number in range(1000):
            running.surface.show(Text(f"line {number}"))
        running.keys.send_text("\x04")

    running.submitted("go\r", controller=controller)
    screen = running.screen.screen
    rows = ["".join(row[x].data for x in range(12)).rstrip() for row in screen.history.top]
    lines = [*rows, *(line.rstrip() for line in screen.display)]
    assert [line for line in lines if line.startswith("line")] == [f"line {n}" for n in range(1000)]
    assert len(running.screen.seen) < 500


def test_a_question_takes_a_choice_and_ignores_the_rest(running: Running) -> None:
    answers: list[str] = []

    def controller(text: str) -> None:
        running.screen.when("sure?", lambda: running.keys.send_text("x\x1b[A3Y\x04"))
        answers.append(running.surface.ask(Question("sure?", ("$ rm -r .",))))

    running.submitted("go\r", controller=controller)
    assert answers == ["y"]
    assert any("  $ rm -r .\nsure? yes" in seen for seen in running.screen.seen)


def test_a_question_after_the_end_gets_its_default(running: Running) -> None:
    answers: list[str] = []

    def control() -> None:
        running.keys.send_text("\x04")
        list(running.surface.submissions())
        answers.append(running.surface.ask(Question("sure?")))

    running.surface.run(control)
    assert answers == ["n"]


def test_control_characters_never_reach_the_terminal(running: Running) -> None:
    hostile = "a\x1b]0;owned\x07\x1b[2Jb\x9b31mc\r\x08"

    def controller(text: str) -> None:
        running.surface.live(Text(hostile))
        running.surface.status(Status(hostile, hostile, busy=hostile))
        running.surface.show(Text(hostile, style="link http://x\x1b]0;owned\x07"))
        running.screen.when("(y a", lambda: running.keys.send_text("y\x04"))
        running.surface.ask(Question(hostile, (hostile,), (("y", hostile), ("n", hostile))))

    running.submitted("go\r", controller=controller)
    assert running.screen.screen.title == ""
    written = running.screen.getvalue()
    assert "\x07" not in written
    assert "\x9b" not in written
    assert "owned" in written


def test_the_plain_theme_writes_no_styles(tmp_path: Path) -> None:
    with create_pipe_input() as keys:
        running = Running(keys, tmp_path / "history", PLAIN)
        styled = Text("text", style="bold red")

        def controller(text: str) -> None:
            running.surface.live(Text("coming", style="italic"))
            running.surface.show(styled)
            leave(running)

        running.submitted("go\r", controller=controller)
        styles = set(re.findall(r"\x1b\[([0-9;]*)m", running.screen.getvalue()))
    assert styles <= {"0"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_submissions(running: Running, number: int) -> None:
    def control() -> list[str]:
        signal.raise_signal(number)
        return list(running.surface.submissions())

    assert running.surface.run(control) == []


class Narrowing:
    """Text that makes the window narrower the first time it is drawn."""

    def __init__(self, narrow: Callable[[], None]) -> None:
        self._narrow = narrow
        self.widths: list[int] = []

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        self.widths.append(options.max_width)
        if len(self.widths) == 1:
            self._narrow()
        yield Text("new " * 17)


def test_a_window_that_gets_narrower_in_a_frame_loses_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = ReflowingScreen(80, 24)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((window.columns, 24)))
    monkeypatch.setattr(running.screen, "fileno", lambda: -1)
    running.screen.use(window)
    narrowing = Narrowing(lambda: window.resize(24, 50))

    def controller(_: str) -> None:
        shown = threading.Event()
        running.screen.when("old old", shown.set)
        running.surface.show(Text("kept " * 14))
        running.surface.live(Text("old " * 17))
        assert shown.wait(30)
        changed = threading.Event()
        running.screen.when("new new", changed.set)
        running.surface.live(narrowing)
        assert changed.wait(30)
        running.keys.send_text("\x04")

    running.submitted("go\r", controller=controller)
    assert narrowing.widths[:2] == [80, 50]
    frame = next(seen for seen in running.screen.seen if "new" in seen)
    assert [frame.count(word) for word in ("kept", "old", "new")] == [14, 0, 17]
