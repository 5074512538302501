"""One reply as it comes from a server: chunks of chat completions in, events out."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from cli.remote.client import Comment, ServerError
from dsv4_mlx.chat.events import (
    BudgetReached,
    Done,
    Event,
    FinishReason,
    LoopNoticed,
    Progress,
    ReasoningDelta,
    TextDelta,
    Timing,
    Usage,
)
from dsv4_mlx.chat.messages import ToolCall

_BUDGET = re.compile(r"(soft|hard) end of reasoning after (\d+) tokens")
_LOOP = "ended as a loop"
_RUNS = re.compile(r"the (reasoning|answer) runs in a loop: (\d+) tokens (\d+) times")
_READING = re.compile(r"reading (\d+)/(\d+) (tokens|layers)")
_FINISHES: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
}


class StreamedReply:
    """Takes the parts of one stream; what was said, and how it ended, stays here."""

    def __init__(self, emit: Callable[[Event], None], asked_at: float) -> None:
        self.usage: Usage | None = None
        """None until the server tells."""
        self._emit, self._asked_at = emit, asked_at
        self._reasoning: list[str] = []
        self._text: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._told = 0
        """Calls that were emitted."""
        self._finish: str | None = None
        self._is_loop = False
        self._stop_text: str | None = None
        self._pieces = 0
        self._first_at = self._last_at = 0.0
        self._prefill_s = 0.0
        self._progress = Progress(0, 0)

    def take(self, part: Mapping[str, Any] | Comment) -> None:
        """The next part of the stream; ServerError for a call that cannot be one."""
        if isinstance(part, Comment):
            self._heard(part.text)
            return
        for choice in part.get("choices") or ():
            self._delta(choice.get("delta") or {})
            if choice.get("finish_reason"):
                self._finish = choice["finish_reason"]
                reason = choice.get("stop_reason")  # elsewhere also the id of a token
                self._stop_text = reason if isinstance(reason, str) else None
                self._tell_calls(len(self._calls))
        if part.get("usage"):
            self.usage = _usage(part["usage"])
            timings = part.get("timings") or {}
            self._prefill_s = float(timings.get("prompt_ms") or 0.0) / 1e3

    @property
    def message(self) -> dict[str, Any]:
        """What was said, calls that came whole among it."""
        return {
            "role": "assistant",
            "content": "".join(self._text),
            "reasoning_content": "".join(self._reasoning),
            "tool_calls": self._calls[: self._told],
        }

    def done(self, *, cancelled: bool) -> Done:
        """The last event; ServerError where the server ended before the reply did."""
        usage = self.usage or Usage(0, 0, self._pieces)
        timing = Timing(self._prefill_s)
        if self._pieces:
            generated = usage.completion_tokens
            lasted_s = self._last_at - self._first_at
            timing = Timing(self._prefill_s, self._first_at - self._asked_at, lasted_s, generated)
        if self._finish is None:
            if not cancelled:
                raise ServerError("The server ended the answer without saying why; send it again.")
            return Done("cancelled", usage, timing)
        finish: FinishReason = "loop" if self._is_loop else _FINISHES.get(self._finish, "stop")
        if finish == "stop" and self._stop_text is not None:
            return Done("stop_text", usage, timing, self._stop_text)
        return Done(finish, usage, timing)

    def _heard(self, comment: str) -> None:
        self._is_loop = self._is_loop or comment == _LOOP
        if (ended := _BUDGET.fullmatch(comment)) is not None:
            self._emit(BudgetReached("soft" if ended[1] == "soft" else "hard", int(ended[2])))
            return
        if (runs := _RUNS.fullmatch(comment)) is not None:
            part: Literal["reasoning", "answer"] = "answer" if runs[1] == "answer" else "reasoning"
            self._emit(LoopNoticed(part, int(runs[2]), int(runs[3])))
            return
        found = _READING.match(comment)
        if found is None or self._pieces:
            return
        done, total = int(found[1]), int(found[2])
        if found[3] == "tokens":
            self._progress = Progress(done, total)
        else:
            self._progress = Progress(self._progress.done, self._progress.total, (done, total))
        self._emit(self._progress)

    def _delta(self, delta: Mapping[str, Any]) -> None:
        if thought := delta.get("reasoning_content"):
            self._say(self._reasoning, thought)
            self._emit(ReasoningDelta(thought))
        if text := delta.get("content"):
            self._say(self._text, text)
            self._emit(TextDelta(text))
        for part in delta.get("tool_calls") or ():
            self._add_to_call(part)

    def _say(self, said: list[str], text: str) -> None:
        said.append(text)
        self._count()

    def _count(self) -> None:
        self._last_at = time.perf_counter()
        self._first_at = self._first_at or self._last_at
        self._pieces += 1

    def _add_to_call(self, part: Mapping[str, Any]) -> None:
        place, function = part.get("index", 0), part.get("function") or {}
        if place == len(self._calls):
            self._tell_calls(place)
            opened = {"name": function.get("name") or "", "arguments": ""}
            self._calls.append({"id": part.get("id") or "", "type": "function", "function": opened})
        elif place != len(self._calls) - 1:
            raise ServerError("The server sent a part of a tool call that it had not begun.")
        self._calls[place]["function"]["arguments"] += function.get("arguments") or ""
        self._count()

    def _tell_calls(self, count: int) -> None:
        """Emit the calls up to `count`, which are whole."""
        for call in self._calls[self._told : count]:
            function = call["function"]
            self._emit(ToolCall(function["name"], function["arguments"], call["id"]))
        self._told = count


def _usage(told: Mapping[str, Any]) -> Usage:
    prompt = told.get("prompt_tokens_details") or {}
    completion = told.get("completion_tokens_details") or {}
    return Usage(
        told.get("prompt_tokens") or 0,
        prompt.get("cached_tokens") or 0,
        told.get("completion_tokens") or 0,
        completion.get("reasoning_tokens") or 0,
    )
