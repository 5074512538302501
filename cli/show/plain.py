"""A conversation on plain lines: for a dumb terminal, a pipe, a screen reader.

Nothing is redrawn and no control code is written. Messages are lines of stdin; prompts, questions
and what is shown for good stand on stderr, since stdout belongs to the answers.
"""

import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper, UnsupportedOperation
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from cli.environment import Environment
from cli.mentions import escaped
from cli.safe import harmless
from cli.show.screen.paste import Pastes
from cli.show.screen.quotes import is_open, submitted
from cli.show.surface import NO_HOOKS, Hooks, Question, Status
from cli.texts import MARK

if TYPE_CHECKING:
    from rich.console import RenderableType

Result = TypeVar("Result")

PROMPT, CONTINUED = "> ", "  "
_WIDTH = 80
_AT_ONCE_S = 0.05
"""Nobody types a second line so soon after the first."""
_HINT = "[Ctrl-C again to leave]"
_LEAVE = Question("leave?", default="n")


class _Ended(BaseException):
    """A signal asks for the end while a line is being read."""


class PlainSurface:
    """Implements `Surface` without a terminal's help; everything runs on the calling thread."""

    def __init__(self, environment: Environment) -> None:
        self._hooks = NO_HOOKS
        self._environment = environment
        if isinstance(environment.stdin, TextIOWrapper):
            environment.stdin.reconfigure(errors="replace")
        self._reading = False
        self._begins = True  # nothing was read yet
        self._ended = False
        self._armed = False  # Ctrl-C was pressed once at this prompt
        self._pastes = Pastes()

    @property
    def width(self) -> int:
        """Columns now."""
        text = self._environment.variables.get("COLUMNS", "")
        return int(text) if text.isascii() and text.isdigit() and int(text) else _WIDTH

    def run(self, controller: Callable[[], Result], hooks: Hooks = NO_HOOKS) -> Result:
        """Call `controller`; Ctrl-C and the signals that ask for the end interrupt it meanwhile."""
        self._hooks = hooks
        with _handling({signal.SIGINT: self._interrupted}):
            ends = {signal.SIGTERM: self._terminated, signal.SIGHUP: self._terminated}
            with _handling(ends):
                return controller()

    def submissions(self) -> Iterator[str]:
        """One line at a time, several between three double quotes, or all that is pasted."""
        while not self._ended:
            try:
                text = self._read_message()
            except KeyboardInterrupt:
                if self._wants_to_leave():
                    return
                continue
            if text is None:
                return
            self._armed = False
            if text.strip():
                yield submitted(text, self._pastes)

    def show(self, renderable: "RenderableType") -> None:
        """Write once, as text alone."""
        self._write(self._as_text(renderable))

    def live(self, renderable: "RenderableType | None") -> None:
        """Nothing is redrawn here; what matters is shown when it is finished."""

    def status(self, status: Status) -> None:
        """There is no status line here; /context and /think tell."""

    def ask(self, question: Question) -> str:
        """One line for an answer; empty and the end of input choose the default."""
        lines = [*(f"  {line}" for line in question.details), question.text]
        self._write("".join(harmless(line) + "\n" for line in lines))
        choices = dict(question.choices)
        shown = ", ".join(f"{key} for {meaning}" for key, meaning in choices.items())
        while not self._ended:
            try:
                line = self._read_line(f"({harmless(shown)}) ")
            except KeyboardInterrupt:
                break
            if line is None or not line.strip():
                break
            answer = line.strip().lower()
            for key, meaning in choices.items():
                if answer in (key, meaning.lower()):
                    return key
        return question.default

    def prefill(self, text: str) -> None:
        """Lines cannot be filled in; the text is there to be copied."""
        self._write(f"[to send again, changed]\n{harmless(escaped(text))}\n")

    def give_back(self) -> None:
        """Nothing is lost here: what was typed stands above, or in the file it comes from."""

    # Lines

    def _read_message(self) -> str | None:
        """A message as an editor's input would hold it; a paste waits for Enter, as it does there,
        since its last line may be without one."""
        text, is_pasted = self._read_lines(PROMPT)
        while text is not None and (is_pasted or is_open(text)):
            if is_pasted and not is_open(text):
                lines = self._pastes.expand(text).count("\n") + 1
                self._write(f"[pasted {lines:,} lines; Enter sends them]\n")
            more, is_pasted = self._read_lines(CONTINUED)
            if more is None:
                return None if is_open(text) else text
            text += f"\n{more}"
        return text

    def _read_lines(self, prompt: str) -> tuple[str | None, bool]:
        """One line, or the lines that come at once, which somebody pasted; whether they are. What
        was typed before the prompt came at once as well, and is lines as they were typed."""
        was_typed_ahead = self._waits(0)
        line = self._read_line(prompt)
        if line is None or was_typed_ahead or not self._waits(_AT_ONCE_S):
            return line, False
        lines = [line]
        while self._waits(_AT_ONCE_S) and (line := self._read_line("")) is not None:
            lines.append(line)
        return self._pastes.take("\n".join(lines)), True

    def _waits(self, seconds: float) -> bool:
        """Whether a line is there, or comes within so long, on a terminal."""
        if not self._environment.reads_terminal or self._ended:
            return False
        try:
            return bool(select.select([self._environment.stdin], [], [], seconds)[0])
        except (OSError, UnsupportedOperation):
            return False

    def _read_line(self, prompt: str) -> str | None:
        """One line without its end; None when there is none any more."""
        self._reading = True  # before the prompt: who sees it may press Ctrl-C at once
        try:
            self._write(prompt)
            line = "" if self._ended else self._environment.stdin.readline()
        except _Ended:
            line = ""
        except OSError:  # the terminal is gone
            line = ""
        finally:
            self._reading = False
        if not line:
            self._ended = True
            if self._environment.reads_terminal:
                self._write("\n")  # the shell's prompt begins a line
            return None
        if self._begins:
            self._begins, line = False, line.removeprefix(MARK)
        return line.removesuffix("\n").removesuffix("\r")

    def _wants_to_leave(self) -> bool:
        """What Ctrl-C at the prompt means: the first drops the line, the second asks."""
        self._write("\n")
        if self._armed:
            self._armed = False
            return self.ask(_LEAVE) == "y"
        self._armed = True
        self._write(f"{_HINT}\n")
        return False

    def _write(self, text: str) -> None:
        with suppress(OSError):  # nobody reads what is not the answer
            self._environment.stderr.write(text)
            self._environment.stderr.flush()

    def _as_text(self, renderable: "RenderableType") -> str:
        from cli.show.screen.drawing import Drawing

        return Drawing({}, styled=False).text(renderable, self.width).replace("\r\n", "\n")

    # Signals

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self._reading:
            raise KeyboardInterrupt
        self._hooks.interrupt()

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        if self._ended:
            raise SystemExit(128 + number)
        self._ended = True
        if self._reading:
            raise _Ended
        self._hooks.interrupt()


@contextmanager
def _handling(handlers: dict[signal.Signals, Callable[..., Any]]) -> Iterator[None]:
    """Signals go to `handlers` inside; only the main thread can have that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
