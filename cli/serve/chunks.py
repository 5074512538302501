"""What chat completions and completions write alike: chunks, what was used, errors, the end."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cli.serve.chat_request import ChatOptions
from cli.serve.dialect import Frame, Heard
from cli.serve.faults import Fault, FaultKind
from dsv4_mlx.chat.events import Done, FinishReason, Usage

FINISHES: Final[dict[FinishReason, str]] = {
    "stop": "stop",
    "stop_text": "stop",
    "loop": "stop",
    "length": "length",
    "cancelled": "length",
    "tool_calls": "tool_calls",
}
_CODES: Final[dict[FaultKind, tuple[str, str | None]]] = {
    "invalid": ("invalid_request_error", None),
    "too_long": ("invalid_request_error", "context_length_exceeded"),
    "unknown_model": ("invalid_request_error", "model_not_found"),
    "unauthorized": ("authentication_error", "invalid_api_key"),
    "forbidden": ("permission_error", None),
    "not_found": ("invalid_request_error", "not_found"),
    "too_often": ("rate_limit_error", "rate_limit_exceeded"),
    "busy": ("rate_limit_error", "server_busy"),
    "memory": ("invalid_request_error", "context_length_exceeded"),
    "crowded": ("server_error", "server_busy"),
    "waited": ("server_error", "server_busy"),
    "failed": ("server_error", None),
    "unavailable": ("server_error", None),
}
"""Type and code of errors; all others are `invalid_request_error`."""


def error_of(fault: Fault) -> dict[str, Any]:
    """The body of an error."""
    kind, code = _CODES.get(fault.kind, ("invalid_request_error", None))
    error = {"message": fault.sentence, "type": kind, "param": fault.field, "code": code}
    return {"error": error}


class ChunkWriter(ABC):
    """A stream of chunks that ends with `[DONE]`, before it what was used where that was asked for.

    `_done` has the end of each answer that ended.
    """

    has_comments = True

    def __init__(self, options: ChatOptions) -> None:
        self._options = options
        self._done: dict[int, Done] = {}

    def heartbeat(self, heard: Heard) -> Frame:
        """A comment, which clients of these dialects count as a sign of life."""
        return Frame(comment=str(heard))

    def end(self) -> Sequence[Frame]:
        """What was used, if asked for, and the end."""
        closing = [Frame("[DONE]")]
        return [chunk_frame(self.used_chunk()), *closing] if self._options.with_usage else closing

    def failed(self, fault: Fault) -> Sequence[Frame]:
        """An error in the place of the rest."""
        return [chunk_frame(error_of(fault))]

    def used(self) -> dict[str, Any]:
        """`usage` and `timings` of all answers."""
        return used([self._done[number] for number in sorted(self._done)])

    @abstractmethod
    def used_chunk(self) -> Mapping[str, Any]:
        """The chunk that tells what was used."""


def chunk_frame(chunk: Mapping[str, Any]) -> Frame:
    """A frame with `chunk` as its data."""
    return Frame(json.dumps(chunk, ensure_ascii=False, separators=(",", ":")))


def used(done: Sequence[Done]) -> dict[str, Any]:
    """`usage` and `timings` of the answers of one request, whose prompt counts once."""
    if not done:
        return {"usage": None}
    prompt, cached = done[0].usage.prompt_tokens, done[0].usage.cached_tokens
    usages: list[Usage] = [one.usage for one in done]
    written = sum(one.completion_tokens for one in usages)
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {
            "reasoning_tokens": sum(one.reasoning_tokens for one in usages)
        },
    }
    timings = {
        "cached_n": cached,
        "prompt_n": prompt - cached,
        "prompt_ms": _ms(done[0].timing.prefill_s),
        "predicted_n": written,
        "predicted_ms": _ms(max(one.timing.generation_s for one in done)),
    }
    return {"usage": usage, "timings": timings}


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
