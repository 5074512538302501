"""One message, one answer: as text for people, as JSON lines for programs."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from cli.environment import Environment, ExitStatus
from cli.interrupts import stopping_on_interrupt
from cli.models import Model, Models
from cli.options import Options
from cli.output import Output, json_line
from cli.preferences import Preferences
from dsv4_mlx.chat.conversation import BudgetReached, Conversation, Done, Event, Progress
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.parsing import ReasoningDelta, TextDelta
from dsv4_mlx.errors import PromptError, UsageError

_PATIENCE_S = 2.0
_TYPES = {
    Progress: "progress",
    ReasoningDelta: "reasoning_delta",
    TextDelta: "text_delta",
    ToolCall: "tool_call",
    BudgetReached: "budget_reached",
    Done: "done",
}


def read_message(options: Options, environment: Environment) -> str | None:
    """The one message of this run, or None to open a prompt.

    Piped text stands first: other questions about the same text then share its beginning.
    """
    if options.prompt is None and environment.reads_terminal:
        if options.json:
            raise UsageError("--json needs a message: give -p TEXT or text on stdin.")
        return None
    piped = "" if environment.reads_terminal else _read_piped(environment)
    parts = [part for part in (piped, options.prompt) if part and part.strip()]
    if not parts:
        raise PromptError("the message is empty: give -p TEXT or text on stdin.")
    return "\n\n".join(parts)


def _read_piped(environment: Environment) -> str:
    if environment.stdin_stays_silent(_PATIENCE_S):
        # A pipe that a script left open by mistake would otherwise look like a hang.
        Output(environment).note("[waiting for the end of stdin; </dev/null gives none]")
    return environment.read_text().rstrip("\r\n")


def conversation_opener(
    models: Models, model: Model, preferences: Preferences
) -> Callable[[], Conversation]:
    """A function that waits for the model and begins the conversation."""

    def opened() -> Conversation:
        engine, tokenizer = model.opening.result()
        return Conversation(
            engine,
            tokenizer,
            thinking=model.settings.thinking(preferences.think),
            effort_table=model.settings.effort_table,
            system=preferences.system,
            sampling=preferences.sampling(model.settings),
            max_tokens=preferences.max_tokens,
            budget=preferences.budget,
            submit=models.worker.submit,
        )

    return opened


def answer(
    message: str,
    open_conversation: Callable[[], Conversation],
    options: Options,
    environment: Environment,
) -> ExitStatus:
    """Answer one message and leave."""
    output = Output(environment)
    if not options.json:
        output.progress("loading the model")
    conversation = open_conversation()
    with stopping_on_interrupt(conversation.cancel):
        events = conversation.send(message)
        return write_json(events, environment) if options.json else show(events, output)


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
