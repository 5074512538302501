"""Rank 0's program: it does for the terminal what its model's thread would do."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import TYPE_CHECKING, Any

from cli.ranks.failures import log, sentence_of
from cli.ranks.messages import FarAnswer, FarCall, FarCancel, FarEvent, Pipes
from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.chat.model_side import ModelSide
from dsv4_mlx.chat.prompting import PromptWriter
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import Dsv4Error, PipelineError

if TYPE_CHECKING:
    from dsv4_mlx.chat.conversation import Prefixes
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine

_METHODS = ("answer", "undo", "clear", "prompt_tokens", "save", "load")


class SideServer:
    """Answers calls, one after the other, on the thread that owns the model."""

    def __init__(
        self,
        engine: "Engine",
        tokenizer: "Tokenizer",
        effort_table: EffortTable,
        prefixes: "Prefixes | None",
        pipes: Pipes,
        calls: "Calls",
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._effort_table = effort_table
        self._prefixes = prefixes
        self._pipes = pipes
        self._calls = calls
        self._sides: dict[int, ModelSide] = {}

    def serve(self) -> None:
        """Until the terminal ends; PipelineError once the other rank is gone or this one made a
        mistake, after which nobody knows how it stands. The terminal is told first."""
        while (found := self._calls.next()) is not None:
            call, cancelled = found
            for number in call.dropped:
                self._sides.pop(number, None)
            answer = self._answered(call, cancelled)
            self._pipes.send(answer)
            if isinstance(answer.error, PipelineError):
                raise answer.error

    def _answered(self, call: FarCall, cancelled: Flag) -> FarAnswer:
        side = self._side(call)
        before = side.turns
        value: Any = None
        error: BaseException | None = None
        try:
            value = self._done(side, call, cancelled)
        except (Dsv4Error, OSError) as expected:
            error = expected
        except Exception as mistake:  # whatever it is, the terminal and its conversation stay
            log(mistake)
            error = PipelineError(f"rank 0 (this machine) failed: {sentence_of(mistake)}")
        turns = None if side.turns is before else side.turns
        return FarAnswer(value, error, turns, side.use)

    def _done(self, side: ModelSide, call: FarCall, cancelled: Flag) -> Any:
        if call.method == "fork":
            (number,) = call.arguments
            self._sides[number] = side.fork()
            return None
        if call.method not in _METHODS:
            raise PipelineError(f"the terminal asks for {call.method!r}, which nobody knows.")
        method: Callable[..., Any] = getattr(side, call.method)
        if call.method == "answer":
            return method(*call.arguments, cancelled, lambda event: self._tell(event))
        return method(*call.arguments)

    def _tell(self, event: Any) -> None:
        self._pipes.send(FarEvent(event))

    def _side(self, call: FarCall) -> ModelSide:
        side = self._sides.get(call.side)
        if side is None:
            side = self._sides[call.side] = self._new(call.turns or ())
        elif call.turns is not None:
            side.turns = call.turns
        return side

    def _new(self, turns: tuple[Turn, ...]) -> ModelSide:
        writer = PromptWriter(self._tokenizer, self._effort_table)
        return ModelSide(self._engine, self._tokenizer, writer, turns, self._prefixes)


class Calls:
    """What the terminal asks for, read by a thread, so that a call that runs can be cancelled."""

    def __init__(self, pipes: Pipes, ended: Callable[[], None]) -> None:
        """`ended` is called when the terminal's end of the pipe is closed."""
        self._waiting: SimpleQueue[tuple[FarCall, Flag] | None] = SimpleQueue()
        self._latest = Flag()
        self._pipes = pipes
        self._ended = ended
        Thread(target=self._listen, name="terminal", daemon=True).start()

    def next(self) -> tuple[FarCall, Flag] | None:
        """The next call with the flag that cancels it; None after the last one."""
        return self._waiting.get()

    def _listen(self) -> None:
        try:
            while True:
                message = self._pipes.receive()
                if isinstance(message, FarCancel):
                    self._latest.set()
                elif isinstance(message, FarCall):
                    self._latest = Flag()
                    self._waiting.put((message, self._latest))
        except EOFError:
            self._latest.set()
            self._waiting.put(None)
            self._ended()
