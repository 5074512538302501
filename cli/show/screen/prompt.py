"""What the keys do: type, send, stop, leave, answer a question. All of it on the drawing thread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import ThreadedCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples

from cli.safe import harmless
from cli.show.screen.completion import Completions, PromptCompleter
from cli.show.screen.history import FileHistory
from cli.show.screen.paste import Pastes
from cli.show.screen.quotes import is_open
from cli.show.screen.submissions import Submissions
from cli.show.surface import NO_HOOKS, Question

_TYPING_PAUSE_S = 0.7
"""A question that comes up while somebody types takes no key as its answer before such a pause."""
_LEAVE = Question("leave?", default="n")


@dataclass
class OpenQuestion:
    """A question that waits for a key."""

    question: Question
    answered: Callable[[str], None]
    guarded: bool = False
    """It came while somebody was typing."""


def _nothing(*given: object) -> None:
    pass


@dataclass
class Around:
    """What the surface around the input does for it."""

    edit: Callable[[], None] = _nothing
    suspend: Callable[[], None] = _nothing
    changed: Callable[[], None] = _nothing
    """The text of the input is another."""
    asking: Callable[[bool], None] = _nothing
    """With True when a question comes up, with False when it is answered."""


class PromptInput:
    """The input and its state; `Actions` for the keys."""

    def __init__(
        self,
        history: Path | None,
        completions: Completions,
        *,
        hint: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`hint` stands in the empty input until the first key changes it."""
        self.placeholder = hint
        self.pastes = Pastes()
        self.submissions = Submissions()
        self.hooks = NO_HOOKS
        self.around = Around()
        self.asked: OpenQuestion | None = None
        self.lent = False
        """Another program has the terminal, and Ctrl-C is its own."""
        self.buffer = Buffer(
            multiline=True,
            history=FileHistory(history, restored=self.pastes.restored, parts=self.pastes.parts),
            completer=ThreadedCompleter(PromptCompleter(completions, self._arguments)),
            complete_while_typing=True,
            on_text_changed=lambda _: self._changed(),
        )
        self._clock = clock
        self._last_key = clock()
        self._armed = False  # Ctrl-C was pressed once at this empty prompt
        self._given_back = ""

    # Keys

    def submit(self) -> None:
        """Send what is typed, or go on in an open block of quotes."""
        text = self.buffer.text
        if is_open(text):
            self.buffer.newline(copy_margin=False)
        elif not text.strip():
            self.buffer.reset()
        elif not self.submissions.closed:
            self.buffer.append_to_history()
            self.buffer.reset()
            self.submissions.send(text)

    def interrupt(self) -> None:
        """Ctrl-C: refuse, stop, clear, or leave, whichever comes first."""
        if self.lent:
            return
        if self.asked is not None:
            self._interrupt_question(self.asked)
        elif self.submissions.busy:
            self.hooks.interrupt()
        elif self.buffer.text:
            self.buffer.reset()
        elif self._armed:
            self._disarm()
            self.ask(OpenQuestion(_LEAVE, lambda key: self.leave() if key == "y" else None))
        else:
            self._armed = True

    def leave(self) -> None:
        """Ctrl-D: leave once what was sent ahead is done, at once without any or when repeated."""
        if self.submissions.pending and not self.submissions.closed:
            self.submissions.close()
        else:
            self.end()

    def end(self) -> None:
        """End the submissions at once, and the answer that is being written."""
        self.submissions.end()
        if self.asked is not None:
            self._answered(self.asked, self.asked.question.default)
        if self.submissions.busy:
            self.hooks.interrupt()

    def paste(self, text: str) -> None:
        """A large paste becomes a chip."""
        self.buffer.insert_text(self.pastes.take(text))

    def can_take_back(self) -> bool:
        """Something waits and the input is empty."""
        return not self.buffer.text and bool(self.submissions.waiting())

    def take_back(self) -> None:
        """Put what waits last back into the input."""
        self.replace(self.submissions.take_back() or "")

    def cycle_mode(self) -> None:
        """Shift-Tab."""
        self.hooks.next_level()

    def unfold(self) -> None:
        """Ctrl-O."""
        self.hooks.unfold()

    def edit_externally(self) -> None:
        """Ctrl-X Ctrl-E."""
        self.around.edit()

    def suspend(self) -> None:
        """Ctrl-Z."""
        self.around.suspend()

    def is_asking(self) -> bool:
        """A question waits for a key."""
        return self.asked is not None

    def answer(self, key: str) -> None:
        """A key while a question waits: "" is the default, and what is no choice does nothing."""
        asked = self.asked
        if asked is None:
            return
        if asked.guarded and self._clock() - self._last_key < _TYPING_PAUSE_S:
            return
        asked.guarded = False
        choice = key.lower() or asked.question.default
        if choice in dict(asked.question.choices):
            self._answered(asked, choice)

    # For the surface

    def ask(self, asked: OpenQuestion) -> None:
        """Wait for a key; a question of ours that still waits is answered by its default."""
        if self.asked is not None:
            self._answered(self.asked, self.asked.question.default)
        self.asked = asked
        self.around.asking(True)

    def replace(self, text: str) -> None:
        """Put `text` into the input; what was typed there moves into the history."""
        if self.buffer.text:
            self.buffer.append_to_history()
        self.buffer.set_document(Document(text), bypass_readonly=True)

    def give_back(self, text: str) -> None:
        """Put what was submitted back, unless something else is there or waits; the history has
        it in any case."""
        if not self.buffer.text and not self.submissions.pending:
            self.buffer.set_document(Document(text), bypass_readonly=True)
            self._given_back = text

    def can_leave(self) -> bool:
        """Nothing is in the input but what was put back there and not touched."""
        return self.buffer.text in ("", self._given_back)

    def offer(self, text: str) -> bool:
        """Put a draft into the input; where something stands there, into the history, and False."""
        if self.buffer.text:
            self.buffer.history.append_string(text)
            return False
        self.buffer.set_document(Document(text), bypass_readonly=True)
        return True

    @property
    def unsent(self) -> str:
        """What a lost terminal would take along: the input, and what waits before it."""
        texts = [*self.submissions.untaken(), "" if self.can_leave() else self.buffer.text]
        return "\n".join(text for text in texts if text)

    def note_key(self) -> None:
        """A key was handled."""
        self._last_key = self._clock()

    def question(self) -> StyleAndTextTuples:
        """The question that waits, with its choices; empty without one."""
        if self.asked is None:
            return []
        question = self.asked.question
        choices = " · ".join(f"{key} {harmless(meaning)}" for key, meaning in question.choices)
        return [
            ("class:question", harmless(question.text)),
            ("", " "),
            ("class:note", f"({choices})"),
            ("", " "),
        ]

    @property
    def hint(self) -> str:
        """What the next press would do."""
        if self.submissions.closed and self.submissions.waiting():
            return "leaving when this is done; Ctrl-D again leaves now"
        return "Ctrl-C again to leave" if self._armed else ""

    def _interrupt_question(self, asked: OpenQuestion) -> None:
        if asked.question is _LEAVE:
            self._answered(asked, "y")
            return
        self._answered(asked, asked.question.default)
        if self.submissions.busy:
            self.hooks.interrupt()

    def _answered(self, asked: OpenQuestion, choice: str) -> None:
        self.asked = None
        self.around.asking(False)
        asked.answered(choice)

    def _changed(self) -> None:
        self.placeholder = ""
        self._disarm()
        self.around.changed()

    def _arguments(self, command: str, typed: str) -> Sequence[str]:
        return self.hooks.arguments(command, typed)

    def _disarm(self) -> None:
        self._armed = False
