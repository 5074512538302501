"""A conversation on a terminal: the input below, always there, and finished text above it.

Three threads meet here. The one that calls `run` draws and reads keys; the controller, on a thread
of its own, sends text to be shown and takes what is submitted; signals ask for the end. Text to be
shown is rendered on the thread that sends it and collected; at most twenty times a second all of it
is written, with what is drawn below it, in one piece.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prompt_toolkit.input import Input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.styles import Style
from rich.text import Text

from cli.environment import Environment
from cli.show.screen.application import ScreenApplication
from cli.show.screen.completion import Completions
from cli.show.screen.draft_keeper import DraftKeeper
from cli.show.screen.drafts import Drafts
from cli.show.screen.drawing import Drawing
from cli.show.screen.frames import Frames
from cli.show.screen.keys import key_bindings
from cli.show.screen.layout import CONTINUED, PROMPT, ScreenLayout
from cli.show.screen.lending import Lending
from cli.show.screen.picture import Picture
from cli.show.screen.prompt import OpenQuestion, PromptInput
from cli.show.screen.quotes import submitted
from cli.show.screen.terminal_input import TerminalInput
from cli.show.screen.terminal_modes import TerminalModes
from cli.show.screen.terminal_output import TerminalOutput, reflows
from cli.show.surface import NO_HOOKS, Hooks, Question, Status

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cli.show.theme import Theme

Result = TypeVar("Result")


class TerminalSurface:
    """Implements `Surface` on a terminal that can move its cursor."""

    def __init__(
        self,
        environment: Environment,
        theme: "Theme",
        *,
        history: Path | None,
        completions: Completions,
        drafts: Drafts | None = None,
        modes: TerminalModes | None = None,
        hint: str = "",
        input: Input | None = None,
    ) -> None:
        """`drafts` keeps what is not sent yet; `modes` are of the terminal before this program
        touched it; `hint` stands in the empty input; `input` replaces the terminal's keys in
        tests."""
        self._output = TerminalOutput(environment.stdout, environment.variables)
        self._modes = modes or TerminalModes(environment.stdin)
        self._theme = theme
        # Two, so that a key is echoed while a long text is being rendered.
        self._finished = Drawing(environment.variables, styled=theme.has_codes)
        coming = Drawing(environment.variables, styled=theme.has_codes)
        self._prompt = PromptInput(history, completions, hint=hint if theme.has_codes else "")
        self._drafts = drafts or Drafts()
        self._draft = DraftKeeper(
            self._prompt, self._drafts, lambda sentence: self._say(sentence, "note")
        )
        self._taken = ""  # what was submitted last, as it stood in the input

        # Only for the drawing thread.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        self._terminated = False

        self._frames = Frames(lambda: self._app.draw())
        blocks = (environment.stdout.encoding or "").lower().startswith("utf")
        self._picture = Picture(self._prompt, self._frames, self._output, coming, blocks=blocks)
        self._layout = ScreenLayout(
            self._picture,
            self._prompt.buffer,
            self._prompt.pastes.label,
            lambda: self._prompt.placeholder,
            reflows=reflows(environment.variables),
        )
        self._prompt.around.asking = self._layout.focus
        self._app = ScreenApplication(
            self._layout.layout,
            key_bindings(self._prompt, self._prompt.buffer),
            Style.from_dict(dict(theme.prompt_toolkit)),
            input=input or TerminalInput(environment.stdin),
            output=self._output,
            pending=self._frames.take,
            reflows=reflows(environment.variables),
        )
        self._lending = Lending(
            self._app,
            self._prompt,
            self._output,
            environment.variables,
            lambda sentence: self._say(sentence, "error"),
        )
        self._app.key_processor.after_key_press += lambda _: self._prompt.note_key()

    # For the controller

    @property
    def width(self) -> int:
        """Columns now."""
        return self._output.size.columns

    def submissions(self) -> Iterator[str]:
        """What the person sends, one text at a time; ends with Ctrl-D or a lost terminal."""
        while (text := self._prompt.submissions.next()) is not None:
            self._taken = text
            self.show(self._echo(text))
            yield submitted(text, self._prompt.pastes)

    def show(self, renderable: "RenderableType") -> None:
        """Print once, above the input, for good."""
        self._frames.show(self._finished.text(renderable, self.width))

    def live(self, renderable: "RenderableType | None") -> None:
        """Replace what is drawn above the input; `renderable` must not change afterwards."""
        self._frames.replace_live(renderable)

    def status(self, status: Status) -> None:
        """Replace the status line."""
        if status != self._picture.status:
            self._picture.status = status
            self._frames.wake()

    def ask(self, question: Question) -> str:
        """Wait for one of the question's keys; its default when the person leaves."""
        answer: Future[str] = Future()
        if question.details:
            self.show(_details(question))
        if self._loop is None or not self._frames.call(lambda: self._ask(question, answer)):
            return question.default
        choice = answer.result()
        self.show(self._answered(question, choice))
        return choice

    def prefill(self, text: str) -> None:
        """Put `text` into the input; what was typed there moves into the history."""
        self._frames.call(lambda: self._prompt.replace(self._prompt.pastes.literal(text)))

    def give_back(self) -> None:
        """Put what was submitted last back into the input, unless something else is there."""
        text = self._taken
        self._frames.call(lambda: self._prompt.give_back(text))

    def restore(self) -> None:
        """Leave the terminal as a shell expects it, at once and from any thread."""
        self._output.restore()
        self._modes.restore()

    # Running

    def run(self, controller: Callable[[], Result], hooks: Hooks = NO_HOOKS) -> Result:
        """Draw and read keys here, and call `controller` on a thread of its own, until it returns.

        Returns or raises what it does. However this ends, the terminal is as it was before.
        """
        self._prompt.hooks, self._drafts.conversation = hooks, hooks.conversation
        outcome: Future[Result] = Future()
        self._modes.remember()
        try:
            asyncio.run(self._run(lambda: _settle(outcome, controller)))
        finally:
            self.restore()
            self._frames.settle()
            self._output.write_raw(self._frames.take())
            self._output.flush()
        if self._failure is not None:
            raise self._failure
        return outcome.result()

    async def _run(self, controller: Callable[[], None]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._crash(context))
        finished = asyncio.Event()

        def control() -> None:
            controller()
            with suppress(RuntimeError):  # nobody waited for it
                loop.call_soon_threadsafe(self._finish, finished)

        for number in (signal.SIGTERM, signal.SIGHUP):
            with suppress(RuntimeError, ValueError):  # only the main thread has signals
                loop.add_signal_handler(number, self._terminate, number)
        thread = threading.Thread(target=control, name="controller", daemon=True)

        def begin() -> None:
            keys = self._lending.typed_ahead()
            store_typeahead(self._app.input, keys)
            self._frames.begin(loop)
            self._draft.begin(loop, typed_ahead=bool(keys))
            thread.start()

        self._output.paste_on()
        try:
            await self._app.run_async(pre_run=begin, set_exception_handler=False)
        except EOFError:
            pass  # the terminal is gone
        finally:
            # Whatever ended the drawing, the controller may still save what it has.
            self._prompt.end()
            self._draft.end()
            self.restore()
            await finished.wait()

    def _finish(self, finished: asyncio.Event) -> None:
        """The controller returned."""
        self._frames.settle()
        finished.set()
        if self._app.is_running and not self._app.is_done:
            self._app.draw()
            self._app.exit()

    def _terminate(self, number: int) -> None:
        """A signal asks for the end; a second one ends at once."""
        if self._terminated and self._loop is not None:
            self.restore()
            self._loop.remove_signal_handler(number)
            os.kill(os.getpid(), number)
        self._terminated = True
        self._draft.keep_now()
        self._prompt.end()
        if number == signal.SIGHUP:
            self._output.lost = True
            if self._app.is_running and not self._app.is_done:
                self._app.exit(exception=EOFError())

    def _crash(self, context: dict[str, Any]) -> None:
        """An exception on the drawing thread: ours to show, once the terminal is restored."""
        self._failure = self._failure or context.get("exception")
        if self._failure and self._app.is_running and not self._app.is_done:
            self._app.exit(exception=self._failure)

    def _ask(self, question: Question, answer: "Future[str]") -> None:
        if self._prompt.submissions.ended:
            answer.set_result(question.default)
            return
        self._prompt.ask(OpenQuestion(question, answer.set_result, bool(self._prompt.buffer.text)))
        self._app.invalidate()

    # Text of ours

    def _echo(self, text: str) -> Text:
        """What was sent, as it stood in the input."""
        shown = self._prompt.pastes.labels(text).replace("\n", f"\n{CONTINUED}")
        style = self._theme.style
        return Text.assemble((PROMPT, style("prompt")), (shown, style("user")))

    def _say(self, sentence: str, role: str) -> None:
        self.show(Text(sentence, style=self._theme.style(role)))

    def _answered(self, question: Question, choice: str) -> Text:
        meaning = dict(question.choices).get(choice, choice)
        return Text.assemble(
            (question.text, self._theme.style("question")),
            (f" {meaning}", self._theme.style("note")),
        )


def _settle(outcome: "Future[Result]", controller: Callable[[], Result]) -> None:
    try:
        outcome.set_result(controller())
    except BaseException as error:
        outcome.set_exception(error)


def _details(question: Question) -> Text:
    return Text("\n".join(f"  {line}" for line in question.details))
