"""Answers as Anthropic's messages: a stream of named events, or one body.

    message_start - ping - (content_block_start - deltas - content_block_stop) ... - message_delta
    - message_stop

A client that waits before its prompt has a timeline hears pings. What was cached is no part of
`input_tokens` there: the prompt is that and `cache_read_input_tokens`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cli.serve.dialect import Frame, Heard
from cli.serve.faults import Fault
from cli.serve.messages_errors import error_body
from cli.serve.parts import AnswerPart, AnswerParts, PartStep
from cli.serve.sealing import Seals
from dsv4_mlx.chat.events import Done, FinishReason
from dsv4_mlx.files.documents import DocumentError, parse_object
from dsv4_mlx.serving.events import Begun, ServedEvent

_STOP_REASONS: Final[Mapping[FinishReason, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "cancelled": "end_turn",
    "tool_calls": "tool_use",
    "stop_text": "stop_sequence",
    "loop": "end_turn",
}


class MessageWriter:
    """Writes one answer; nothing is written before its prompt has a timeline but pings."""

    has_comments = False

    def __init__(
        self, message_id: str, model: str, seals: Seals, owner: str, *, shows_thinking: bool = True
    ) -> None:
        """Without `shows_thinking` a thinking block holds its signature alone."""
        self._id, self._model = message_id, model
        self._seals, self._owner, self._shows_thinking = seals, owner, shows_thinking
        self._parts = AnswerParts()
        self._begun = Begun(0, 0)
        self._has_begun = False
        self._done: Done | None = None

    def begin(self) -> Sequence[Frame]:
        """Nothing: how much was cached stands in the first event."""
        return []

    def event(self, answer: int, event: ServedEvent) -> Sequence[Frame]:
        """The frames of `event`."""
        if isinstance(event, Begun):
            self._begun = event
            return self._start()
        if isinstance(event, Done):
            self._done = event
            self._begun = Begun(event.usage.prompt_tokens, event.usage.cached_tokens)
        frames = [frame for step in self._parts.take(event) for frame in self._of_step(step)]
        return frames if self._has_begun or not frames else [*self._start(), *frames]

    def heartbeat(self, heard: Heard) -> Frame:
        """A ping that says how far the request is."""
        return _frame("ping", progress=str(heard))

    def end(self) -> Sequence[Frame]:
        """What ends the stream."""
        start = [] if self._has_begun else self._start()
        delta = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        told = _frame("message_delta", delta=delta, usage=self._usage())
        return [*start, told, _frame("message_stop")]

    def failed(self, fault: Fault) -> Sequence[Frame]:
        """An error in the middle of the stream, which is its last event."""
        return [Frame(_json(error_body(fault).body), "error")]

    def whole(self) -> Mapping[str, Any]:
        """The message."""
        content = [self._block(part, is_whole=True) for part in self._parts.all]
        return {**self._message(), "content": content}

    def _start(self) -> list[Frame]:
        self._has_begun = True
        return [_frame("message_start", message=self._message()), _frame("ping")]

    def _message(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
            "usage": self._usage(),
        }

    @property
    def _stop_reason(self) -> str | None:
        return None if self._done is None else _STOP_REASONS[self._done.finish_reason]

    @property
    def _stop_sequence(self) -> str | None:
        is_by_text = self._stop_reason == "stop_sequence"
        return self._done.stop_text if self._done is not None and is_by_text else None

    def _usage(self) -> dict[str, Any]:
        begun = self._begun
        used = None if self._done is None else self._done.usage
        thought = 0 if used is None else used.reasoning_tokens
        return {
            "input_tokens": begun.prompt_tokens - begun.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": begun.cached_tokens,
            "output_tokens": 0 if used is None else used.completion_tokens,
            "output_tokens_details": {"thinking_tokens": thought},
        }

    def _of_step(self, step: PartStep) -> list[Frame]:
        happening, part, text = step
        match happening:
            case "opened":
                block = self._block(part, is_whole=False)
                return [_frame("content_block_start", index=part.number, content_block=block)]
            case "grown":
                return self._grown(part, text)
            case "closed":
                return [*self._signature(part), _frame("content_block_stop", index=part.number)]

    def _grown(self, part: AnswerPart, text: str) -> list[Frame]:
        match part.kind:
            case "reasoning" if not self._shows_thinking:
                return []
            case "reasoning":
                delta = {"type": "thinking_delta", "thinking": text}
            case "text":
                delta = {"type": "text_delta", "text": text}
            case "call":
                delta = {"type": "input_json_delta", "partial_json": text}
        return [_frame("content_block_delta", index=part.number, delta=delta)]

    def _signature(self, part: AnswerPart) -> list[Frame]:
        if part.kind != "reasoning":
            return []
        delta = {"type": "signature_delta", "signature": self._seal(part)}
        return [_frame("content_block_delta", index=part.number, delta=delta)]

    def _block(self, part: AnswerPart, *, is_whole: bool) -> dict[str, Any]:
        """A block with all that it holds, or as it begins."""
        text = part.text if is_whole else ""
        match part.kind:
            case "reasoning":
                shown = text if self._shows_thinking else ""
                signature = self._seal(part) if is_whole else ""
                return {"type": "thinking", "thinking": shown, "signature": signature}
            case "text":
                return {"type": "text", "text": text}
            case "call":
                given = _arguments(text)
                return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": given}

    def _seal(self, part: AnswerPart) -> str:
        return self._seals.seal(self._owner, part.text)


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of a call; none for one that was cut in the middle of them."""
    try:
        return parse_object(text)
    except DocumentError:
        return {}


def _frame(kind: str, **content: Any) -> Frame:
    return Frame(_json({"type": kind, **content}), kind)


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
