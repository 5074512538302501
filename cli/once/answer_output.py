"""How the events of one answer leave the program: as text for people, as JSON for programs.

Text is the answer on stdout and everything else on stderr. JSON is one event per line on stdout.
Either comes while it is generated, or at once at the end.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from typing import Any

from cli.environment import Environment, ExitStatus
from cli.once.tools import ToolOutput, TurnEvent
from cli.safe import json_line
from cli.show.output import PlainOutput
from cli.show.plain_view import PlainView
from dsv4_mlx.chat.events import (
    BudgetReached,
    Done,
    LoopNoticed,
    Progress,
    ReasoningDelta,
    TextDelta,
)
from dsv4_mlx.chat.messages import ToolCall

_TYPES = {
    Progress: "progress",
    ReasoningDelta: "reasoning_delta",
    TextDelta: "text_delta",
    ToolCall: "tool_call",
    ToolOutput: "tool_result",
    BudgetReached: "budget_reached",
    LoopNoticed: "loop_noticed",
    Done: "done",
}


class ExactOutput(PlainOutput):
    """Writes the answer as the model spelled it, byte for byte and without a line end of ours.

    Into a pipe or a file, that is: on a terminal no control character is exact enough to run.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._stdout = environment.stdout
        self._is_exact = not environment.stdout.isatty()

    def answer(self, text: str) -> None:
        if not self._is_exact:
            super().answer(text)
            return
        self.close_lines()
        self._stdout.flush()
        # Text streams of other encodings would put a question mark for what they lack.
        binary = getattr(self._stdout, "buffer", None)
        if binary is None:
            self._stdout.write(text)
        else:
            binary.write(text.encode("utf-8", "replace"))
        self._stdout.flush()


def write_text(
    events: Iterable[TurnEvent], output: PlainOutput, *, reasoning: str = "show"
) -> ExitStatus:
    """Write an answer for a person; INTERRUPTED if it was stopped."""
    view = PlainView(output, reasoning=reasoning)
    status = ExitStatus.OK
    view.begin()
    for event in events:
        if isinstance(event, ToolOutput):  # of tools only what is called is shown, as at the prompt
            continue
        view.feed(event)
        if isinstance(event, Done):
            view.begin()
        status = _after(event, status)
    return status


def write_json(events: Iterable[TurnEvent], environment: Environment) -> ExitStatus:
    """Write every event as one line; INTERRUPTED if the answer was stopped."""
    status = ExitStatus.OK
    for event in events:
        _write_record(environment, as_record(event))
        status = _after(event, status)
    return status


def write_json_error(message: str, environment: Environment) -> None:
    """The last line of a run that failed."""
    _write_record(environment, {"type": "error", "message": message})


def at_once(events: Iterable[TurnEvent]) -> Iterator[TurnEvent]:
    """The same answer with all its text in one piece, when the answer is there; only Progress
    comes while it is generated."""
    held: list[TurnEvent] = []
    for event in events:
        if isinstance(event, Progress):
            yield event
        else:
            held.append(event)
    for kind, run in groupby(held, type):
        if kind is TextDelta or kind is ReasoningDelta:
            yield kind("".join(event.text for event in run))  # type: ignore[union-attr]
        else:
            yield from run


def as_record(event: TurnEvent) -> dict[str, Any]:
    """One event as JSON data: its type's name beside its fields."""
    fields = asdict(event)
    if isinstance(event, ToolCall):
        # How the model spelled it, and an id that nobody gave, help no reader.
        fields = {"name": event.name, "arguments": event.arguments}
    if isinstance(event, Progress) and event.layers is None:
        del fields["layers"]
    if isinstance(event, Done):
        fields["timing"] = _timing(event)
        if event.stop_text is None:
            del fields["stop_text"]
        if event.exact_rows is None:
            del fields["exact_rows"]
        if event.drafts_not_loaded is None:
            del fields["drafts_not_loaded"]
        if event.pipeline is None:
            del fields["pipeline"]
        del fields["reply_experts"]
        if event.experts is None:
            del fields["experts"]
        else:
            fields["experts"] = event.experts.as_record()
        if event.draft is None:
            del fields["draft"]
        else:
            fields["draft"]["saved_s"] = round(event.draft.saved_s, 6)
    return {"type": _TYPES[type(event)], **fields}


def _timing(done: Done) -> dict[str, float | None]:
    timing = done.timing
    seconds = {
        "prefill_s": timing.prefill_s,
        "first_token_s": timing.first_token_s,
        "generation_s": timing.generation_s,
        "tokens_per_s": timing.tokens_per_s,
    }
    return {name: None if value is None else round(value, 6) for name, value in seconds.items()}


def _after(event: TurnEvent, status: ExitStatus) -> ExitStatus:
    is_stopped = isinstance(event, Done) and event.finish_reason == "cancelled"
    return ExitStatus.INTERRUPTED if is_stopped else status


def _write_record(environment: Environment, record: dict[str, Any]) -> None:
    environment.stdout.write(json_line(record))
    environment.stdout.flush()
