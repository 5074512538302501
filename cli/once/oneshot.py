"""One message, one answer: `-p`, text from a pipe, files named with @."""

from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.environment import Environment, ExitStatus
from cli.once.answer_output import ExactOutput, at_once, write_json, write_text
from cli.once.interrupts import stopping_on_interrupt
from cli.once.resumed import Resumed
from cli.once.tools import ToolsAlone, TurnEvent
from cli.options import Options
from cli.show.output import PlainOutput
from dsv4_mlx.errors import PromptError, UsageError

if TYPE_CHECKING:
    from cli.tools.use import MakeToolbox
    from dsv4_mlx.chat.conversation import Conversation

_PATIENCE_S = 2.0


@dataclass(frozen=True)
class OneMessage:
    """What is asked. `shared` is the beginning of `text` that other messages may begin with."""

    text: str
    shared: str = ""


def read_message(
    options: Options, environment: Environment, folder: Path = Path()
) -> OneMessage | None:
    """The one message of this run, or None to open a prompt.

    Piped text stands first, then the files that are named with @, then what is asked about them:
    other questions about the same texts then share their beginning, and it is read once.
    """
    from cli.attachments import expand

    prompt = options.prompt if options.prompt and options.prompt.strip() else ""
    asked = bool(options.words or prompt)
    if options.prompt is None and not asked and environment.reads_terminal:
        if options.json:
            raise UsageError("--json needs a message: give -p TEXT or text on stdin.")
        return None
    piped = "" if environment.reads_terminal else _read_piped(environment)
    # Nobody sees the files' sizes here, so nobody counts their tokens.
    files = [word.removeprefix("@") for word in options.words]
    expanded = expand(prompt, folder, lambda text: 0, files=files)
    for note in expanded.notes:
        PlainOutput(environment).note(f"[{note}]")
    if not piped.strip() and not asked:
        raise PromptError("the message is empty: give -p TEXT or text on stdin.")
    if not piped.strip() or not asked:
        return OneMessage(piped if piped.strip() else expanded.text, expanded.shared)
    before = f"{piped}\n\n"
    return OneMessage(before + expanded.text, before + expanded.shared)


def _read_piped(environment: Environment) -> str:
    if environment.stdin_stays_silent(_PATIENCE_S):
        # A pipe that a script left open by mistake would otherwise look like a hang.
        PlainOutput(environment).note("[waiting for the end of stdin; </dev/null gives none]")
    return environment.read_text().rstrip("\r\n")


def answer(
    message: OneMessage,
    begin: "Callable[[], Conversation]",
    options: Options,
    environment: Environment,
    resumed: Resumed | None = None,
    make_toolbox: "MakeToolbox | None" = None,
) -> ExitStatus:
    """Answer one message and leave, in the conversation that `begin` begins and that goes on with
    `resumed`, if anything is; the model may use the tools that `make_toolbox` makes."""
    output = ExactOutput(environment) if options.raw else PlainOutput(environment)
    tools = None if make_toolbox is None else ToolsAlone(make_toolbox, output)
    if not options.json:
        output.progress("loading the model")
    with resumed or nullcontext(), nullcontext() if tools is None else closing(tools):
        conversation = begin()

        def stop() -> None:
            if tools is not None:
                tools.stop()
            conversation.cancel()

        with stopping_on_interrupt(stop):
            if tools is not None:
                tools.offer(conversation)
            if resumed is not None:
                resumed.begin(conversation, message.text)
            events = conversation.send(message.text, shared=message.shared)
            turn = events if tools is None else tools.turn(conversation, events)
            try:
                return _write(turn, output, options, environment)
            finally:
                # When the reader has left, the model need not go on; what it said so far is kept.
                conversation.cancel()
                turn.close()
                if resumed is not None:
                    resumed.end(conversation)


def _write(
    events: Iterator[TurnEvent], output: PlainOutput, options: Options, environment: Environment
) -> ExitStatus:
    written = events if options.stream else at_once(events)
    if options.json:
        return write_json(written, environment)
    return write_text(written, output, reasoning=options.reasoning or "show")
