"""A conversation: messages in, events out, and the model's cache reused from turn to turn.

`send` yields what happens as values; a terminal, a JSON writer or a server is a consumer of them.
The replies are kept as the tokens that were generated: encoding their text again could split it
differently, and then nothing of the cache would fit the next prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, Literal

from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.chat.encoding import Prompt, Segment, encode_messages
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.parsing import ReasoningDelta, ReplyParser, TextDelta
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokens import ASSISTANT, END_THINK, EOS

if TYPE_CHECKING:
    from dsv4_mlx.engine import Engine, Session
    from dsv4_mlx.generation import Token
    from dsv4_mlx.tokenizer import Tokenizer

    Submit = Callable[[Callable[[], None]], Future[None]]

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Progress:
    """Prompt tokens read so far, out of those that the cache did not hold."""

    done: int
    total: int


@dataclass(frozen=True)
class Usage:
    """Tokens of one turn; `cached_tokens` of the prompt needed no reading."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Done:
    """The last event of a turn."""

    finish_reason: FinishReason
    usage: Usage


Event = Progress | ReasoningDelta | TextDelta | ToolCall | Done


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy; None is a new seed every time."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


class Conversation:
    """One dialogue with one model, used from one thread; the model runs on another.

    `submit` queues a job for the thread that loaded the model, since MLX ties lazy arrays to the
    thread that made them; without it the conversation has a thread of its own.
    """

    def __init__(
        self,
        engine: "Engine",
        tokenizer: "Tokenizer",
        *,
        thinking: Thinking,
        effort_table: EffortTable = "2026-04",
        system: str | None = None,
        sampling: Sampling | None = None,
        max_tokens: int | None = None,
        submit: "Submit | None" = None,
    ) -> None:
        """`max_tokens` bounds one reply, reasoning included."""
        self.thinking = thinking
        """How the next turn thinks."""
        self._engine = engine
        self._tokenizer = tokenizer
        self._effort_table = effort_table
        self._system = system
        self._sampling = sampling or Sampling()
        self._max_tokens = max_tokens
        self._submit = submit or ThreadPoolExecutor(1, "conversation").submit
        self._cancelled = Flag()
        self._forget()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The dialogue so far as OpenAI-style dictionaries, the system message included."""
        system = [] if self._system is None else [{"role": "system", "content": self._system}]
        return [*system, *(dict(message) for message in self._messages)]

    def send(self, text: str) -> Iterator[Event]:
        """Answer `text`: events as they happen, Done last. Begins with the first event asked for.

        A cancelled answer stays in the dialogue as far as it came. After an error, PromptError for
        a prompt that does not fit the context among them, the dialogue is as it was before.
        Leaving the iterator early cancels.
        """
        self._cancelled = Flag()
        return self._relay(text, self.thinking, self._cancelled)

    def _relay(self, text: str, thinking: Thinking, cancelled: Flag) -> Iterator[Event]:
        events: SimpleQueue[Event | None] = SimpleQueue()

        def work() -> None:
            try:
                self._answer(text, thinking, cancelled, events.put)
            finally:
                events.put(None)

        job = self._submit(work)
        try:
            while (event := events.get()) is not None:
                yield event
        finally:
            cancelled.set()
        job.result()

    def cancel(self) -> None:
        """Stop the answer after its next token or prefill chunk; safe in a signal handler."""
        self._cancelled.set()

    def clear(self) -> None:
        """Forget the dialogue; the system message and the model stay."""
        self.cancel()
        self._submit(self._forget).result()

    # What follows runs on the model's thread.

    def _forget(self) -> None:
        self._session: Session | None = None
        self._messages: list[dict[str, Any]] = []
        self._answers: list[list[int]] = []

    def _answer(
        self, text: str, thinking: Thinking, cancelled: Flag, emit: Callable[[Event], None]
    ) -> None:
        asked = {"role": "user", "content": text}
        tokens = self._prompt([*self.messages, asked], thinking)
        session = self._session = self._session or self._engine.session()
        read = session.sync(tokens, lambda done, total: emit(Progress(done, total)), cancelled)
        reply = _Reply(self._tokenizer, thinking, emit)
        if not read.cancelled:
            reply.write(self._stream(session, cancelled))
        message, reason = reply.close()
        self._messages += [asked, message]
        self._answers.append(reply.answer_tokens(message))
        emit(Done(reason, Usage(len(tokens), read.reused, reply.generated)))

    def _prompt(self, messages: list[dict[str, Any]], thinking: Thinking) -> list[int]:
        prompt = encode_messages(
            messages,
            thinking_mode=thinking.mode,
            reasoning_effort=thinking.effort,
            effort_table=self._effort_table,
        )
        return encode_with_answers(prompt, self._answers, self._tokenizer)

    def _stream(self, session: "Session", cancelled: Flag) -> "Iterator[Token]":
        sampling, turn = self._sampling, len(self._answers)
        return session.stream(
            self._max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            # Another seed for every turn, or each would begin with the same luck.
            seed=None if sampling.seed is None else sampling.seed + turn,
            cancel=cancelled,
        )


class _Reply:
    """One reply while it is generated: its tokens, and the events its text gives."""

    def __init__(
        self, tokenizer: "Tokenizer", thinking: Thinking, emit: Callable[[Event], None]
    ) -> None:
        self.generated = 0
        self._tokens: list[int] = []  # without the closing EOS
        self._thinks = thinking.mode == "thinking"
        self._tokenizer = tokenizer
        self._finish: FinishReason = "cancelled"
        self._parser = ReplyParser(thinking.mode)
        self._detokenizer = tokenizer.detokenizer()
        self._emit = emit

    def write(self, stream: "Iterator[Token]") -> None:
        """Take every token of `stream`."""
        for token in stream:
            self.generated += 1
            self._finish = token.finish or self._finish
            if token.finish != "stop":
                self._tokens.append(token.id)
                self._feed(self._detokenizer.add(token.id))

    def close(self) -> tuple[dict[str, Any], FinishReason]:
        """The whole message, and why it ended."""
        self._feed(self._detokenizer.finish())
        for event in self._parser.finish():
            self._emit(event)
        return dict(self._parser.close()), self._finish

    def answer_tokens(self, message: dict[str, Any]) -> list[int]:
        """What followed the reasoning, as generated; `message` is what `close` returned."""
        if not message["reasoning_content"] and not self._thinks:
            return self._tokens
        end_think = self._tokenizer.control_ids[END_THINK]
        if end_think in self._tokens:
            return self._tokens[self._tokens.index(end_think) + 1 :]
        # Cut short while thinking, or the parser found the end of reasoning in plain text.
        return self._tokenizer.encode(message["content"]) if message["content"] else []

    def _feed(self, text: str) -> None:
        for event in self._parser.feed(text):
            self._emit(event)


def encode_with_answers(
    prompt: Prompt, answers: Sequence[Sequence[int]], tokenizer: "Tokenizer"
) -> list[int]:
    """Token ids of `prompt`, each finished answer in it as the tokens it was generated as.

    The n-th assistant turn of `prompt` has the answer `answers[n]` and no reasoning.
    """
    tokens: list[int] = []
    segments, start = prompt.segments, 0
    turns = (i for i, segment in enumerate(segments) if segment == Segment(ASSISTANT, True))
    for answer, turn in zip(answers, turns, strict=False):
        opened = turn + 2  # behind the assistant token and `</think>`
        tokens += tokenizer.encode(Prompt(segments[start:opened])) + list(answer)
        start = segments.index(Segment(EOS, True), opened)
    return tokens + tokenizer.encode(Prompt(segments[start:]))
