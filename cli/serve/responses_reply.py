"""Answers as OpenAI's responses: a stream of numbered events, or one body.

    created - in_progress - (output_item.added - deltas - *.done - output_item.done) ...
    - completed | incomplete | failed

A client that waits hears `in_progress` again. Reasoning is the summary of its item where one is
asked for, whole and as it was thought, else the item's text.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.serve.dialect import Frame, Heard
from cli.serve.faults import Fault
from cli.serve.likelihoods import TokenBytes, Told, told_of
from cli.serve.parts import AnswerPart, AnswerParts, PartStep
from cli.serve.responses_errors import code_of
from cli.serve.responses_output import MessageItem, OutputItem, item_of
from cli.serve.responses_tools import ClientTools
from dsv4_mlx.chat.events import Done
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.serving.events import ServedEvent, TokenLikelihood


@dataclass(frozen=True)
class ResponseForm:
    """What a writer has to know of a request."""

    response: Mapping[str, Any]
    """The fields of the response that hang on the request alone, its id among them."""
    tools: ClientTools
    seal: Callable[[str], str] | None = None
    """Seals reasoning, where the client wants it back sealed."""
    has_summary: bool = False
    token_bytes: TokenBytes = field(default=lambda token: b"")
    """For the log-probabilities of tokens, where the client wants them."""
    keep: Callable[[Mapping[str, Any]], None] = field(default=lambda response: None)
    """Is given the finished response before the client is."""

    @property
    def suffix(self) -> str:
        """What ids of items carry of the response's."""
        return str(self.response["id"]).partition("_")[2]


class ResponseWriter:
    """Writes one response."""

    has_comments = False

    def __init__(self, form: ResponseForm) -> None:
        self._form = form
        self._parts = AnswerParts()
        self._items: dict[int, OutputItem] = {}
        self._output: list[Mapping[str, Any]] = []
        self._sequence = 0
        self._waiting: list[Told] = []
        """Of tokens whose text has not come."""
        self._done: Done | None = None
        self._finished: Mapping[str, Any] | None = None

    def begin(self) -> Sequence[Frame]:
        """That the response is made, and is being worked on."""
        response = self._response("in_progress")
        return [
            self._frame("response.created", response=response),
            self._frame("response.in_progress", response=response),
        ]

    def event(self, answer: int, event: ServedEvent) -> Sequence[Frame]:
        """The frames of `event`."""
        if isinstance(event, Done):
            self._done = event
        if isinstance(event, TokenLikelihood):
            self._waiting += told_of(event, self._form.token_bytes)
        if isinstance(event, ToolCall):
            self._waiting = []
        return [frame for step in self._parts.take(event) for frame in self._of_step(step)]

    def heartbeat(self, heard: Heard) -> Frame:
        """That it is still being worked on, and how far."""
        response = self._response("in_progress")
        return self._frame("response.in_progress", response=response, progress=str(heard))

    def end(self) -> Sequence[Frame]:
        """What ends the stream."""
        response = self.whole()
        return [self._frame(f"response.{response['status']}", response=response)]

    def failed(self, fault: Fault) -> Sequence[Frame]:
        """That the response failed, which is the stream's last event."""
        error = {"code": code_of(fault), "message": fault.sentence}
        return [self._frame("response.failed", response=self._response("failed", error=error))]

    def whole(self) -> Mapping[str, Any]:
        """The response, which is kept from now on."""
        if self._finished is None:
            reason = None if self._done is None else self._done.finish_reason
            is_cut = reason in ("length", "cancelled")
            self._finished = self._response("incomplete" if is_cut else "completed")
            self._form.keep(self._finished)
        return self._finished

    def _response(self, status: str, error: Mapping[str, Any] | None = None) -> dict[str, Any]:
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            **self._form.response,
            "status": status,
            "error": error,
            "incomplete_details": reason,
            "output": list(self._output),
            "usage": self._usage(),
        }

    def _usage(self) -> dict[str, Any] | None:
        if self._done is None:
            return None
        usage = self._done.usage
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }

    def _of_step(self, step: PartStep) -> list[Frame]:
        happening, part, text = step
        item = self._item(part)
        match happening:
            case "opened":
                told = list(item.opened())
            case "grown":
                if isinstance(item, MessageItem):
                    item.tell(self._waiting)
                self._waiting = []  # what is told is told of the answer's text alone
                told = list(item.grown(text))
            case "closed":
                told = list(item.closed(part.text, is_whole=part.is_whole))
                self._output.append(item.finished)
        return [self._frame(kind, **content) for kind, content in told]

    def _item(self, part: AnswerPart) -> OutputItem:
        if part.number not in self._items:
            form = self._form
            tool = form.tools.of(part.name)
            self._items[part.number] = item_of(
                part, form.suffix, tool, has_summary=form.has_summary, seal=form.seal
            )
        return self._items[part.number]

    def _frame(self, kind: str, **content: Any) -> Frame:
        told = {"type": kind, "sequence_number": self._sequence, **content}
        self._sequence += 1
        return Frame(json.dumps(told, ensure_ascii=False, separators=(",", ":")), kind)
