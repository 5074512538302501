"""The model's side of conversations in another process, as the terminal uses it.

It keeps the turns here, so that they outlive the process.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Any

from cli.ranks.messages import FarAnswer, FarCall, FarCancel, FarEnd, FarEvent, FarLoaded, Pipes
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.events import Event
from dsv4_mlx.chat.model_side import AnswerRequest, ContextUse
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.engine.draft_choice import DraftChoice
from dsv4_mlx.errors import PipelineError

_LOOK_S = 0.05
_WOKEN = object()


class FarMemory:
    """What rank 0's program keeps resident; it says itself what is wrong with it."""

    problem = ""

    def __init__(self, wired: int) -> None:
        self.wired = wired

    def release(self) -> None:
        """Nothing is held in this process."""


class FarDrafting:
    """Drafts are off where layers lie on two machines."""

    not_loaded = ""

    def why_off(self, kind: DraftChoice) -> str:
        """Why nothing drafts."""
        return "" if kind == "off" else "drafts are off: the model's layers lie on two machines"


class FarEngine:
    """The loaded model of rank 0's program; see `dsv4_mlx.engine.engine.Engine` for the names."""

    row_finding: RowFinding | None = None

    def __init__(
        self,
        pipes: Pipes,
        loaded: FarLoaded,
        inbox: "SimpleQueue[Any]",
        why_ended: Callable[[], str],
    ) -> None:
        """`inbox` holds what comes through `pipes`, None at the end; `why_ended` says why that
        was, once it was."""
        self.max_context = loaded.max_context
        self.longest = loaded.longest
        """Tokens that a server's memory holds of one request."""
        self.backend = loaded.backend
        self.left_out = loaded.left_out
        self.notes = loaded.notes
        self.memory = FarMemory(loaded.wired)
        self.drafting = FarDrafting()
        self.problem = ""
        """Why the ranks ended, a sentence; "" while they run."""
        self._pipes = pipes
        self._inbox = inbox
        self._why_ended = why_ended
        self._numbers = 0
        self._dropped: list[int] = []

    def side(self, turns: Sequence[Turn]) -> "FarSide":
        """The side of a new conversation that begins with `turns`."""
        return self.held(FarSide(self, self.number(), turns))

    def number(self) -> int:
        """A new side's."""
        self._numbers += 1
        return self._numbers

    def held(self, side: "FarSide") -> "FarSide":
        """`side`, whose end rank 0 is told with the next call."""
        weakref.finalize(side, self._dropped.append, side.number).atexit = False
        return side

    def send(self, message: object) -> None:
        """Tell rank 0 something, from any thread; its end comes through the other pipe."""
        with suppress(OSError):
            self._pipes.send(message)

    def wake(self) -> None:
        """Let `receive` return."""
        self._inbox.put(_WOKEN)

    def receive(self) -> Any:
        """What rank 0 says next, None after `wake`; PipelineError once it has ended."""
        if self.problem:
            raise PipelineError(self.problem)
        message = self._inbox.get()
        if message is _WOKEN:
            return None
        if message is None or isinstance(message, FarEnd):
            raise self._ended(message)
        return message

    def _ended(self, message: FarEnd | None) -> PipelineError:
        self.problem = self._why_ended() if message is None else message.sentence
        return PipelineError(self.problem)

    def call(
        self,
        call: FarCall,
        emit: Callable[[Event], None] = lambda event: None,
        cancelled: Flag | None = None,
    ) -> FarAnswer:
        """What rank 0 answers; PipelineError once it has ended."""
        if self.problem:
            raise PipelineError(self.problem)
        dropped, self._dropped[:] = tuple(self._dropped), []
        self.send(FarCall(call.side, call.method, call.arguments, call.turns, dropped))
        is_cancelled = False
        while True:
            if cancelled is not None and cancelled.is_set() and not is_cancelled:
                is_cancelled = True
                self.send(FarCancel())
            try:
                message = self._inbox.get(timeout=_LOOK_S)
            except Empty:
                continue
            if isinstance(message, FarEvent):
                emit(message.event)
            elif isinstance(message, FarAnswer):
                return message
            else:
                raise self._ended(message)


class FarSide:
    """One conversation's; see `dsv4_mlx.chat.model_side.ModelSide` for the names."""

    def __init__(
        self, engine: FarEngine, number: int, turns: Sequence[Turn], use: ContextUse | None = None
    ) -> None:
        self.turns = tuple(turns)
        self.use = use or ContextUse(0, engine.max_context)
        self.number = number
        self._engine = engine
        self._known: tuple[Turn, ...] | None = None

    def answer(
        self,
        request: AnswerRequest,
        settings: AnswerSettings,
        cancelled: Flag,
        emit: Callable[[Event], None],
    ) -> None:
        """Generate the reply that `request` asks for."""
        self._call("answer", request, settings, emit=emit, cancelled=cancelled)

    def undo(self, settings: AnswerSettings) -> str:
        """Forget the last turn; what was asked in it."""
        return str(self._call("undo", settings))

    def fork(self) -> "FarSide":
        """A second one that goes on independently."""
        number = self._engine.number()
        self._call("fork", number)
        other = FarSide(self._engine, number, self.turns, self.use)
        other._known = other.turns
        return self._engine.held(other)

    def clear(self) -> None:
        """Forget the turns and what was read."""
        self._call("clear")

    def prompt_tokens(self, turns: Sequence[Turn], text: str, settings: AnswerSettings) -> int:
        """Tokens of the prompt that asks `text` after `turns`."""
        return int(self._call("prompt_tokens", tuple(turns), text, settings))

    def save(self, path: str | Path) -> None:
        """Write the model's state to a file."""
        self._call("save", str(path))

    def load(self, path: str | Path) -> None:
        """Take the state that `save` wrote."""
        self._call("load", str(path))

    def _call(
        self,
        method: str,
        *arguments: Any,
        emit: Callable[[Event], None] = lambda event: None,
        cancelled: Flag | None = None,
    ) -> Any:
        turns = self.turns
        told = None if turns is self._known else turns
        answer = self._engine.call(FarCall(self.number, method, arguments, told), emit, cancelled)
        self._known = turns
        if answer.turns is not None:
            self.turns = self._known = answer.turns
        if answer.use is not None:
            self.use = answer.use
        if answer.error is not None:
            raise answer.error
        return answer.value


def listening(pipes: Pipes) -> "SimpleQueue[Any]":
    """What comes through `pipes`, read by a thread; None at the end."""
    inbox: SimpleQueue[Any] = SimpleQueue()

    def listen() -> None:
        with suppress(EOFError):
            while True:
                inbox.put(pipes.receive())
        inbox.put(None)

    Thread(target=listen, name="rank 0", daemon=True).start()
    return inbox
