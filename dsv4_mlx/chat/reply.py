"""One reply while it is generated: its tokens, and the events its text gives."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from dsv4_mlx.chat.budget import TAIL, ReasoningBudget
from dsv4_mlx.chat.encoding import Prompt, Segment, encode_messages
from dsv4_mlx.chat.events import (
    BudgetReached,
    CallArguments,
    CallBegun,
    CallPart,
    Event,
    FinishReason,
    LoopNoticed,
    Timing,
)
from dsv4_mlx.chat.loops import Loops, LoopWatch
from dsv4_mlx.chat.marks import MarkedTokens, spelled_out
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.parsing import ReplyParser
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokens import BOS, END_THINK, EOS, THINK
from dsv4_mlx.engine.draft_history import Regime

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.generation import Token


@dataclass(frozen=True)
class FinishedReply:
    """A finished reply: as a message, and as the tokens of its reasoning and of its answer.

    Of the tokens that were generated the first `kept` are among them; a stop text, and what came
    after it, is not, nor is a call that was left open, see `chat.argument_stream`.
    """

    message: dict[str, Any]
    thought: tuple[int, ...]
    answer: tuple[int, ...]
    finish_reason: FinishReason
    kept: int
    stop_text: str | None = None


class Reply:
    """Takes the tokens of one reply.

    Ids of tool calls are what `call_id` gives; without it they count on from `calls_before`. With
    `on_call_part`, that takes what calls give while they are written, in order with `emit`.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        thinking: Thinking,
        emit: Callable[[Event], None],
        *,
        budget: ReasoningBudget | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        stop: Sequence[str] = (),
        loops: Loops = "notice",
        calls_before: int = 0,
        call_id: Callable[[], str] | None = None,
        on_call_part: Callable[[CallPart], None] | None = None,
    ) -> None:
        self.generated = 0
        self.reasoning_tokens = 0
        self._first_at = self._last_at = 0.0
        self._tokens: list[int] = []  # without the closing EOS
        self._thinks = thinking.mode == "thinking"
        self._tokenizer = tokenizer
        self._end_think = tokenizer.control_ids[END_THINK]
        self._finish: FinishReason = "cancelled"
        self._marked = MarkedTokens(tokenizer)
        self._parser = ReplyParser(
            thinking.mode,
            spelled=self._marked.spelled,
            tools=tools,
            stop=stop,
            streams_calls=on_call_part is not None,
        )
        self._may_stop = bool(stop)
        self._loops = loops
        self._watch: LoopWatch | None = None
        self._watched: Literal["reasoning", "answer"] | None = None
        self._budget = budget or ReasoningBudget()
        self._tail = ""
        self._calls, self._call_id = calls_before, call_id
        self._ids: list[str] = []
        self._begun: str | None = None  # the id of the call that is being written
        self._emit, self._on_call_part = emit, on_call_part

    def write(self, stream: "Iterator[Token]", hold: Callable[[], None] | None = None) -> None:
        """Take the tokens of `stream`, up to where a stop text or a loop ends the reply.

        `hold` is called where what was generated may have to be returned to.
        """
        for token in stream:
            if self.take(token, hold):
                return

    def take(self, token: "Token", hold: Callable[[], None] | None = None) -> bool:
        """Take one token; whether the reply ends with it. `hold` as in `write`."""
        self._last_at = time.perf_counter()
        self._first_at = self._first_at or self._last_at
        self.generated += 1
        self._finish = token.finish or self._finish
        if token.finish != "stop":
            self._add(token.id)
        if self._finish in ("stop_text", "loop"):
            return True
        if hold and self._may_stop and not (self._parser.reasons or self._parser.waits):
            hold()
        return token.finish is not None

    def steer(self) -> int | None:
        """`</think>` when the reasoning has to end before the next token."""
        if not self._parser.reasons:
            return None
        if self._watched == "reasoning" and self._watch is None and self._loops == "stop":
            return self._end_think
        kind = self._budget.due(self.reasoning_tokens, self._tail)
        if kind is None:
            return None
        self._emit(BudgetReached(kind, self.reasoning_tokens))
        return self._end_think

    def regime(self) -> Regime:
        """What the next token belongs to."""
        if self._parser.reasons:
            return "thinking"
        return "tool" if self._parser.calls else "answer"

    def timing(self, asked_at: float, prefill_s: float) -> Timing:
        """How long it took, from when the answer was asked for (`time.perf_counter`)."""
        if not self.generated:
            return Timing(prefill_s)
        generation_s = self._last_at - self._first_at
        return Timing(prefill_s, self._first_at - asked_at, generation_s, self.generated)

    def close(self) -> FinishedReply:
        """The whole reply, and why it ended."""
        self._feed(self._marked.finish())
        self._pass_on(self._parser.finish(is_whole=self._finish == "stop"))
        self._note_stop()
        message: dict[str, Any] = dict(self._parser.close())
        calls = zip(self._ids, message["tool_calls"], strict=True)
        message["tool_calls"] = [{"id": name, **call} for name, call in calls]
        if self._finish in ("stop", "stop_text") and message["tool_calls"]:
            self._finish = "tool_calls"
        thought, answer = self._parts(message)
        kept = len(self._tokens)
        if self._parser.stopped is not None or self._parser.left_open:
            answer = _cut(answer, message, self._tokenizer)
            between = [self._end_think] * bool(thought or self._thinks)
            kept = _common([*thought, *between, *answer], self._tokens)
        stop_text = self._parser.stopped
        return FinishedReply(message, tuple(thought), tuple(answer), self._finish, kept, stop_text)

    def _add(self, token: int) -> None:
        self._tokens.append(token)
        if self._parser.reasons and token != self._end_think:
            self.reasoning_tokens += 1
        text = self._marked.add(token)
        self._tail = (self._tail + spelled_out(text))[-TAIL:]
        is_loop = self._loops != "off" and self._repeats(token, text)
        self._feed(text)
        self._note_stop()
        if is_loop and self._finish != "stop_text":
            self._note_loop()

    def _note_stop(self) -> None:
        if self._parser.stopped is not None:
            self._finish = "stop_text"

    def _repeats(self, token: int, text: str) -> bool:
        """Whether the part of the reply that this token belongs to has begun to loop."""
        part: Literal["reasoning", "answer"] = "reasoning" if self._parser.reasons else "answer"
        if part != self._watched:
            self._watched, self._watch = part, LoopWatch()
        return self._watch is not None and self._watch.add(token, text)

    def _note_loop(self) -> None:
        """Emit the note about a loop, once for each part."""
        assert self._watch is not None and self._watched is not None
        self._emit(LoopNoticed(self._watched, self._watch.period, self._watch.repeats))
        self._watch = None
        if self._loops == "stop" and self._watched == "answer":
            self._finish = "loop"

    def _feed(self, text: str) -> None:
        self._pass_on(self._parser.feed(text))

    def _pass_on(self, events: "list[Any]") -> None:
        for event in events:
            if isinstance(event, CallBegun | CallArguments):
                assert self._on_call_part is not None
                self._begun = self._begun or self._new_id()
                self._on_call_part(replace(event, call_id=self._begun))
                continue
            if isinstance(event, ToolCall):
                self._ids.append(self._begun or self._new_id())
                event, self._begun = replace(event, id=self._ids[-1]), None
            self._emit(event)

    def _new_id(self) -> str:
        if self._call_id is not None:
            return self._call_id()
        return f"call_{self._calls + len(self._ids) + 1}"

    def _parts(self, message: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Tokens of the reasoning and of what followed it, as generated where they can be told."""
        reasoning = message["reasoning_content"]
        if not reasoning and not self._thinks:
            return [], self._tokens
        if self._end_think in self._tokens:
            end = self._tokens.index(self._end_think)
            thought, answer = self._tokens[:end], self._tokens[end + 1 :]
            if thought[:1] == [self._tokenizer.control_ids[THINK]]:
                thought = thought[1:]
            if self._tokenizer.decode(thought) == reasoning:
                return thought, answer
        elif self._tokenizer.decode(self._tokens) == reasoning:
            return self._tokens, []  # cut short while thinking
        # Reasoning that ended in another way, such as with a tool call.
        return self._tokenizer.encode(reasoning), written(message, self._tokenizer)


def written(message: dict[str, Any], tokenizer: "Tokenizer") -> list[int]:
    """An assistant message without its reasoning, as the encoder writes it."""
    frame = (Segment(BOS, True), Segment(EOS, True))
    segments = encode_messages([message]).segments
    return tokenizer.encode(Prompt([part for part in segments if part not in frame]))


def _cut(tokens: Sequence[int], message: dict[str, Any], tokenizer: "Tokenizer") -> list[int]:
    """The tokens of an answer that was cut short, of which `tokens` are what was generated.

    As generated as far as they lie before the cut; the part of the token in which it lies is
    encoded anew, as text.
    """
    shown = message["content"].encode("utf-8", "replace")
    kept = end = size = 0
    for count, token in enumerate(tokens, 1):
        size += len(tokenizer.token_bytes(token))
        if size > len(shown):
            break
        if size == len(shown) or shown[size] & 0xC0 != 0x80:  # never half a character
            kept, end = count, size
    cut = [*tokens[:kept], *tokenizer.encode(shown[end:].decode())]
    # Layout and markers that are no text, or calls before the cut: then the message is written.
    is_all = not message["tool_calls"] and tokenizer.decode(cut) == message["content"]
    return cut if is_all else written(message, tokenizer)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    shorter = min(len(one), len(other))
    return next((place for place, (mine, theirs) in pairs if mine != theirs), shorter)
