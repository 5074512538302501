"""A conversation: turns in, events out, and the model's cache reused from turn to turn.

`send` yields what happens as values; a terminal, a JSON writer or a server is a consumer of them.
Going back (`undo`, `retry`, `edit`, `fork`) returns to a place of the session's timeline, so that
nothing that is kept is read again.
"""

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from copy import copy
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.chat.events import Event
from dsv4_mlx.chat.model_side import AnswerRequest, ContextUse, Emit, ModelSide
from dsv4_mlx.chat.prefixes import Prefixes
from dsv4_mlx.chat.prompting import PromptWriter
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import ContextError, UsageError

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine

Result = TypeVar("Result")


class Submit(Protocol):
    """Queues a job for the thread that loaded the model."""

    def __call__(self, job: Callable[[], Result], /) -> Future[Result]: ...


class Side(Protocol):
    """Turns and session of one conversation as it asks for them: a `ModelSide`, or one that lives
    in another process."""

    turns: tuple[Turn, ...]
    use: ContextUse

    def answer(
        self, request: AnswerRequest, settings: AnswerSettings, cancelled: Flag, emit: Emit
    ) -> None: ...

    def undo(self, settings: AnswerSettings) -> str: ...

    def fork(self) -> "Side": ...

    def clear(self) -> None: ...

    def prompt_tokens(self, turns: Sequence[Turn], text: str, settings: AnswerSettings) -> int: ...

    def save(self, path: str | Path) -> None: ...

    def load(self, path: str | Path) -> None: ...


class Conversation:
    """One dialogue with one model, used from one thread; the model runs on another.

    `submit` queues a job for the thread that loaded the model, since MLX ties lazy arrays to the
    thread that made them; without it the conversation has a thread of its own.
    """

    def __init__(
        self,
        engine: "Engine | None",
        tokenizer: "Tokenizer",
        settings: AnswerSettings,
        *,
        effort_table: EffortTable = "2026-04",
        turns: Sequence[Turn] = (),
        prefixes: Prefixes | None = None,
        submit: Submit | None = None,
        side: Side | None = None,
    ) -> None:
        """`side` takes the place of `engine` where the model runs in another process; it then
        begins with its own turns."""
        self.settings = settings
        """Those of the next answer; one that has begun keeps its own."""
        self._tokenizer = tokenizer
        self._submit: Submit = submit or ThreadPoolExecutor(1, "conversation").submit
        self._cancelled = Flag()
        if side is None:
            if engine is None:
                raise UsageError("A conversation needs an engine, or a side; none was given.")
            writer = PromptWriter(tokenizer, effort_table)
            side = ModelSide(engine, tokenizer, writer, tuple(turns), prefixes)
        self._model_side: Side = side

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The dialogue so far."""
        return self._model_side.turns

    @turns.setter
    def turns(self, turns: Sequence[Turn]) -> None:
        self._model_side.turns = tuple(turns)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The dialogue so far as OpenAI-style dictionaries, the system message included."""
        text = self.settings.system
        system = [] if text is None else [{"role": "system", "content": text}]
        return [*system, *(dict(message) for turn in self.turns for message in turn.messages)]

    def send(self, text: str, *, shared: str = "") -> Generator[Event, None, None]:
        """Answer `text`: events as they happen, Done last. Begins with the first event asked for.

        `shared` is the part at the beginning of `text` that other messages are likely to begin
        with, such as attached files; see `prefixes`. A cancelled answer stays in the dialogue as
        far as it came. After an error, PromptError for a prompt that does not fit the context
        among them, the dialogue is as it was before. Leaving the iterator early cancels.
        """
        return self._answered(lambda turns: AnswerRequest(turns, Turn.asking(text), shared))

    def answer_tools(self, results: Sequence[tuple[str, str]]) -> Generator[Event, None, None]:
        """Go on after Done("tool_calls"), given each call's id and what the tool said.

        What tools did is done: after an error the results stay in the dialogue, so that the next
        message goes on from them; of results that the context does not hold, only that they were
        too long. UsageError when no calls wait or the ids are not theirs.
        """
        waiting = self.turns[-1].waiting_calls if self.turns else ()
        if not waiting:
            raise UsageError("No tool call waits for a result; send a message first.")
        if sorted(waiting) != sorted(call for call, _ in results):
            raise UsageError(
                f"Results are needed for the calls {', '.join(waiting)}, each once, "
                f"got {', '.join(call for call, _ in results) or 'none'}."
            )
        return self._answered(
            lambda turns: AnswerRequest(turns[:-1], turns[-1].with_results(results))
        )

    def retry(self) -> Generator[Event, None, None]:
        """Answer the last question again, by other draws unless sampling is greedy."""
        self._check_turn(len(self.turns))
        return self._answered(lambda turns: AnswerRequest(turns[:-1], turns[-1].question))

    def edit(self, number: int, text: str, *, shared: str = "") -> Generator[Event, None, None]:
        """Ask `text` in the place of the user turn `number`, the first being 1; later ones go."""
        self._check_turn(number)
        return self._answered(
            lambda turns: AnswerRequest(turns[: number - 1], Turn.asking(text), shared)
        )

    def undo(self) -> str:
        """Forget the last turn and return what was asked; UsageError when there is none."""
        self._check_turn(len(self.turns))
        settings = self.settings
        return self._submit(lambda: self._model_side.undo(settings)).result()

    def fork(self) -> "Conversation":
        """A second conversation that begins with this one; what is common is stored once."""
        other = copy(self)
        other._cancelled = Flag()
        other._model_side = self._submit(self._model_side.fork).result()
        return other

    def clear(self) -> None:
        """Forget the dialogue; the system message and the model stay."""
        self.cancel()
        self._submit(self._model_side.clear).result()

    def cancel(self) -> None:
        """Stop the answer after its next token or prefill chunk; safe in a signal handler."""
        self._cancelled.set()

    def count(self, text: str) -> int:
        """Tokens of `text`; for any thread, also while the model answers."""
        return len(self._tokenizer.encode(text))

    def prompt_tokens(self, turns: Sequence[Turn], text: str = "") -> int:
        """Tokens of the prompt that asks `text` after `turns`, whether or not it would fit."""
        settings = self.settings
        return self._submit(lambda: self._model_side.prompt_tokens(turns, text, settings)).result()

    def context(self) -> ContextUse:
        """How full the context was when the last turn ended; for any thread."""
        return self._model_side.use

    def save_cache(self, path: str | Path) -> None:
        """Write the model's state to a file, so that a later program need not read the dialogue.

        CacheError when there is nothing to save.
        """
        self._submit(lambda: self._model_side.save(path)).result()

    def load_cache(self, path: str | Path) -> None:
        """Take the state from a file; CacheError, and nothing changed, if it does not fit."""
        self._submit(lambda: self._model_side.load(path)).result()

    def _check_turn(self, number: int) -> None:
        count = len(self.turns)
        if not count:
            raise UsageError("The conversation has no turn yet; send a message first.")
        if not 1 <= number <= count:
            raise UsageError(f"There is no turn {number}; the conversation has {count}.")

    def _answered(
        self, request: Callable[[tuple[Turn, ...]], AnswerRequest]
    ) -> Generator[Event, None, None]:
        """The events of one answer; `request` says to what, once the model's thread is free."""
        cancelled = self._cancelled = Flag()
        model_side, settings = self._model_side, self.settings

        def answer(emit: Emit, asked_at: float) -> None:
            asked = replace(request(model_side.turns), asked_at=asked_at)
            try:
                model_side.answer(asked, settings, cancelled, emit)
            except BaseException as error:
                if (turn := asked.turn).ends_with_results:
                    turn = turn.without_long_results() if isinstance(error, ContextError) else turn
                    model_side.turns = (*asked.kept, turn)
                raise

        return self._relayed(answer, cancelled)

    def _relayed(
        self, answer: Callable[[Emit, float], None], cancelled: Flag
    ) -> Generator[Event, None, None]:
        """The events of `answer`, which runs on the model's thread."""
        events: SimpleQueue[Event | None] = SimpleQueue()
        asked_at = time.perf_counter()

        def work() -> None:
            try:
                answer(events.put, asked_at)
            finally:
                events.put(None)

        job = self._submit(work)
        try:
            while (event := events.get()) is not None:
                yield event
        finally:
            cancelled.set()
            wait([job])  # so that the turns are settled for whoever left early
        job.result()
