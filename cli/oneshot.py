"""One message, one answer: as text for people, as JSON lines for programs."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from cli.environment import Environment, ExitStatus
from cli.output import Output, json_line
from dsv4_mlx.chat.conversation import BudgetReached, Done, Event, Progress
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.parsing import ReasoningDelta, TextDelta

_TYPES = {
    Progress: "progress",
    ReasoningDelta: "reasoning_delta",
    TextDelta: "text_delta",
    ToolCall: "tool_call",
    BudgetReached: "budget_reached",
    Done: "done",
}


def show(events: Iterable[Event], output: Output) -> ExitStatus:
    """Write the answer as it comes; INTERRUPTED if it was stopped."""
    status = ExitStatus.OK
    for event in events:
        match event:
            case TextDelta(text):
                output.answer(text)
            case ReasoningDelta(text):
                output.reasoning(text)
            case Progress(done, total):
                output.progress(f"reading {done:,} of {total:,} tokens")
            case ToolCall():
                output.note(f"tool call: {event.name}({event.arguments})")
            case BudgetReached():
                output.note(f"[reasoning ended after {event.tokens:,} tokens, its budget]")
            case Done():
                output.close_lines()
                status = _finish(event, output)
    return status


def _finish(done: Done, output: Output) -> ExitStatus:
    if done.finish_reason == "length":
        output.note(f"[stopped after {done.usage.completion_tokens:,} tokens, the limit]")
    if done.finish_reason != "cancelled":
        return ExitStatus.OK
    output.note("[stopped]")
    return ExitStatus.INTERRUPTED


def write_json(events: Iterable[Event], environment: Environment) -> ExitStatus:
    """Write every event as one line; INTERRUPTED if the answer was stopped."""
    status = ExitStatus.OK
    for event in events:
        _write_record(environment, as_record(event))
        if isinstance(event, Done) and event.finish_reason == "cancelled":
            status = ExitStatus.INTERRUPTED
    return status


def write_json_error(message: str, environment: Environment) -> None:
    """The last line of a run that failed."""
    _write_record(environment, {"type": "error", "message": message})


def as_record(event: Event) -> dict[str, Any]:
    """One event as JSON data: its type's name beside its fields."""
    fields = asdict(event)
    if isinstance(event, ToolCall):
        # How the model spelled it, and an id that nobody gave, help no reader.
        fields = {"name": event.name, "arguments": event.arguments}
    return {"type": _TYPES[type(event)], **fields}


def _write_record(environment: Environment, record: dict[str, Any]) -> None:
    environment.stdout.write(json_line(record))
    environment.stdout.flush()
