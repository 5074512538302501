"""The dialect of `POST /v1/chat/completions`: its answers, whole and as a stream of chunks.

A stream begins with the role and ends with a finish reason for each answer, what was used where
that was asked for, and `[DONE]`. Reasoning is `reasoning_content`. A client that waits gets
comments, and comments tell of a budget that was reached, of a loop, and of an answer that was ended
as one. Beside the finish reason of an answer that a stop text ended, `stop_reason` is that text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cli.serve.chat_request import ChatOptions, chat_options, chat_request, left_out
from cli.serve.chunks import FINISHES, ChunkWriter, chunk_frame, error_of
from cli.serve.dialect import Asked, DialectContext, ErrorBody, Frame
from cli.serve.faults import STATUSES, Fault
from cli.serve.likelihoods import told_of
from cli.serve.old_functions import in_new_form
from dsv4_mlx.chat.events import BudgetReached, Done, LoopNoticed, ReasoningDelta, TextDelta
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.serving.events import CallArguments, CallBegun, ServedEvent, TokenLikelihood


class ChatCompletions:
    """See the module."""

    name = "chat"

    def read(self, body: Mapping[str, Any], context: DialectContext) -> Asked:
        """What `body` asks for."""
        body, is_old = in_new_form(body)
        request, options = chat_request(body, context), chat_options(body)
        options = replace(options, old_calls=is_old)
        writer = ChatWriter(context, options, request.answers)
        return Asked(request, writer, options.streams, left_out(body))

    def error(self, fault: Fault) -> ErrorBody:
        """The error for `fault`."""
        return ErrorBody(STATUSES[fault.kind], error_of(fault))


@dataclass
class _Choice:
    """One answer as far as it is written."""

    reasoning: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    begun: int = 0
    """Calls that have begun, the last of which may still be written."""
    likelihoods: list[dict[str, Any]] = field(default_factory=list)
    """Of tokens whose text has come."""
    waiting: list[dict[str, Any]] = field(default_factory=list)
    """Of tokens whose text has not, or of which no chunk told."""
    finish: str | None = None

    def message(self, old_calls: bool) -> dict[str, Any]:
        """As a message that a client can send back, a call in the old form where that is meant."""
        reasoning, text = "".join(self.reasoning), "".join(self.text)
        message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
        if not self.calls:
            message["content"] = text
        if reasoning:
            message["reasoning_content"] = reasoning
        if self.calls and old_calls:
            message["function_call"] = self.calls[0]["function"]
        elif self.calls:
            message["tool_calls"] = self.calls
        return message


class ChatWriter(ChunkWriter):
    """Writes the answers of one request."""

    def __init__(self, context: DialectContext, options: ChatOptions, answers: int) -> None:
        super().__init__(options)
        self._token_bytes = context.token_bytes
        self._head = {
            "id": context.new_id("chatcmpl-"),
            "created": context.now(),
            "model": context.model,
            "system_fingerprint": None,
        }
        self._choices = [_Choice() for _ in range(answers)]

    def begin(self) -> Sequence[Frame]:
        """The role of every answer."""
        role = {"role": "assistant", "content": ""}
        return [self._chunk(number, role) for number in range(len(self._choices))]

    def event(self, answer: int, event: ServedEvent) -> Sequence[Frame]:
        """The chunks for an event."""
        choice = self._choices[answer]
        match event:
            case TokenLikelihood():
                choice.waiting += told_of(event, self._token_bytes)
            case ReasoningDelta(text):
                choice.reasoning.append(text)
                choice.waiting = []  # what is told is told of the answer's text alone
                return [self._chunk(answer, {"reasoning_content": text})]
            case TextDelta(text):
                choice.text.append(text)
                if not self._options.streams:  # else told, and of no more use
                    choice.likelihoods += choice.waiting
                return [self._chunk(answer, {"content": text})]
            case CallBegun(call_id, name):
                choice.begun, choice.waiting = choice.begun + 1, []
                call = {"id": call_id, "type": "function"}
                return [self._call(answer, call, name=name, arguments="")]
            case CallArguments(_, piece):
                choice.waiting = []
                return [self._call(answer, {}, arguments=piece)] if piece else []
            case ToolCall():
                function = {"name": event.name, "arguments": event.arguments}
                choice.waiting = []
                choice.calls.append({"id": event.id, "type": "function", "function": function})
                return []
            case BudgetReached(kind, tokens):
                return [Frame(comment=f"{kind} end of reasoning after {tokens} tokens")]
            case LoopNoticed(part, period, repeats):
                return [
                    Frame(comment=f"the {part} runs in a loop: {period} tokens {repeats} times")
                ]
            case Done():
                self._done[answer] = event
                choice.waiting = []
                choice.finish = self._finish_of(event)
                closing = [self._chunk(answer, {}, choice.finish)]
                # What a finish reason has no word for.
                is_loop = event.finish_reason == "loop"
                return [Frame(comment="ended as a loop"), *closing] if is_loop else closing
        return []

    def used_chunk(self) -> Mapping[str, Any]:
        """A chunk of no answer."""
        return {**self._object("chat.completion.chunk"), "choices": [], **self.used()}

    def whole(self) -> Mapping[str, Any]:
        """All answers as one body."""
        choices = []
        for number, choice in enumerate(self._choices):
            message = choice.message(self._options.old_calls)
            entry: dict[str, Any] = {"index": number, "message": message}
            entry["logprobs"] = self._logprobs(choice.likelihoods)
            choices.append({**entry, "finish_reason": choice.finish, **self._stop_reason(number)})
        return {**self._object("chat.completion"), "choices": choices, **self.used()}

    def _finish_of(self, done: Done) -> str:
        finish = FINISHES[done.finish_reason]
        return "function_call" if finish == "tool_calls" and self._options.old_calls else finish

    def _stop_reason(self, answer: int) -> Mapping[str, str]:
        """The stop text that ended an answer, under the name that vLLM has for it."""
        done = self._done.get(answer)
        return {} if done is None or done.stop_text is None else {"stop_reason": done.stop_text}

    def _call(self, answer: int, call: Mapping[str, Any], **function: str) -> Frame:
        """A piece of the call that began last."""
        if self._options.old_calls:
            return self._chunk(answer, {"function_call": function})
        place = self._choices[answer].begun - 1
        piece = {"index": place, **call, "function": function}
        return self._chunk(answer, {"tool_calls": [piece]})

    def _chunk(self, answer: int, delta: Mapping[str, Any], finish: str | None = None) -> Frame:
        choice = self._choices[answer]
        said: dict[str, Any] = {"index": answer, "delta": delta}
        if self._options.likelihoods:
            said["logprobs"] = self._logprobs(choice.waiting)
            choice.waiting = []
        said |= {"finish_reason": finish, **self._stop_reason(answer)}
        chunk = {**self._object("chat.completion.chunk"), "choices": [said]}
        if self._options.with_usage:
            chunk["usage"] = None
        return chunk_frame(chunk)

    def _object(self, kind: str) -> dict[str, Any]:
        return {"id": self._head["id"], "object": kind, **self._head}

    def _logprobs(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        if not self._options.likelihoods or not entries:
            return None
        return {"content": list(entries), "refusal": None}
