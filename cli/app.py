"""`dsv4-chat`: from the command line to an exit status.

The main thread owns the terminal. One worker thread owns the model: it loads it, since MLX ties
lazy arrays to the thread that made them, and it runs every answer.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cli.environment import Environment, ExitStatus
from cli.interrupts import stopping_on_interrupt
from cli.oneshot import show, write_json, write_json_error
from cli.options import Helped, Options, parse
from cli.output import Output, json_line
from cli.repl import Repl, max_context_note
from cli.worker import Worker
from dsv4_mlx.chat.conversation import Conversation, Sampling
from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.chat.settings import ChatSettings, Thinking, read_settings
from dsv4_mlx.errors import Dsv4Error, PromptError, UsageError

if TYPE_CHECKING:
    from dsv4_mlx.engine import Engine
    from dsv4_mlx.tokenizer import Tokenizer

    OpenModel = Callable[[Path, Options], tuple[Engine, Tokenizer]]

_PATIENCE_S = 2.0


def main(
    argv: list[str] | None = None,
    *,
    environment: Environment | None = None,
    open_model: "OpenModel | None" = None,
) -> int:
    """Run `dsv4-chat` with `argv` (sys.argv without the program by default); the exit status.

    `environment` and `open_model` replace the streams and the model in tests.
    """
    environment = environment or Environment()
    worker = Worker()
    try:
        arguments = sys.argv[1:] if argv is None else argv
        status = _guarded(arguments, environment, worker, open_model or load_model)
    except BrokenPipeError:
        # The reader left, as `head` does: not worth a sentence.
        _silence(environment)
        status = ExitStatus.ERROR
    if not worker.ends_within(_PATIENCE_S):
        # Half-way through loading gigabytes there is nothing to save and no reason to wait.
        os._exit(status)
    return status


def load_model(folder: Path, options: Options) -> "tuple[Engine, Tokenizer]":
    """Load the checkpoint in `folder`; for the worker thread."""
    from dsv4_mlx.engine import Engine
    from dsv4_mlx.loading import load

    model, tokenizer = load(folder, backend=options.backend, kv=options.kv)
    return Engine(model), tokenizer


def embedded_model() -> Path:
    """The folder of the small model that comes with the program."""
    import dsv4_mlx

    return Path(dsv4_mlx.__file__).parent / "nano"


def _guarded(
    arguments: list[str], environment: Environment, worker: Worker, open_model: "OpenModel"
) -> ExitStatus:
    """Every expected end as an exit status; only our own mistakes pass as tracebacks."""
    options = Options()
    try:
        options = parse(arguments, environment)
        return _run(options, environment, worker, open_model)
    except Helped:
        return ExitStatus.OK
    except KeyboardInterrupt:
        Output(environment).close_lines()
        return ExitStatus.INTERRUPTED
    except UsageError as error:
        return _fail(str(error), ExitStatus.USAGE, options, environment)
    except Dsv4Error as error:
        return _fail(str(error), ExitStatus.ERROR, options, environment)
    except BrokenPipeError:
        raise
    except OSError as error:
        sentence = f"{error.filename or 'input or output'}: {error.strerror}."
        return _fail(sentence, ExitStatus.ERROR, options, environment)


def _fail(
    sentence: str, status: ExitStatus, options: Options, environment: Environment
) -> ExitStatus:
    if options.json:
        write_json_error(sentence, environment)
    Output(environment).error(sentence)
    return status


def _run(
    options: Options, environment: Environment, worker: Worker, open_model: "OpenModel"
) -> ExitStatus:
    if options.version:
        return _print_version(options, environment)
    message = _message(options, environment)
    folder = options.model or embedded_model()
    table = None if options.effort_table == "auto" else cast(EffortTable, options.effort_table)
    settings = read_settings(folder, table)
    thinking = settings.thinking(options.think)
    if thinking.level == "max":
        Output(environment).note(max_context_note(settings))
    opening = worker.submit(lambda: open_model(folder, options))
    opener = _opener(opening, worker, options, settings, thinking)
    if message is None:
        return Repl(environment, settings, thinking, opener).run()
    return _answer_once(message, opener, options, environment)


def _message(options: Options, environment: Environment) -> str | None:
    """The one message of this run, or None to open a prompt."""
    if options.prompt is None and environment.reads_terminal:
        if options.json:
            raise UsageError("--json needs a message: give -p TEXT or text on stdin.")
        return None
    piped = "" if environment.reads_terminal else _read_piped(environment)
    parts = [part for part in (options.prompt, piped) if part and part.strip()]
    if not parts:
        raise PromptError("the message is empty: give -p TEXT or text on stdin.")
    return "\n\n".join(parts)


def _read_piped(environment: Environment) -> str:
    if environment.stdin_stays_silent(_PATIENCE_S):
        # A pipe that a script left open by mistake would otherwise look like a hang.
        Output(environment).note("[waiting for the end of stdin; </dev/null gives none]")
    return environment.read_text().rstrip("\r\n")


def _opener(
    opening: "Future[tuple[Engine, Tokenizer]]",
    worker: Worker,
    options: Options,
    settings: ChatSettings,
    thinking: Thinking,
) -> Callable[[], Conversation]:
    """A function that waits for the model and begins the conversation."""

    def open_conversation() -> Conversation:
        engine, tokenizer = opening.result()
        return Conversation(
            engine,
            tokenizer,
            thinking=thinking,
            effort_table=settings.effort_table,
            system=options.system,
            sampling=_sampling(options, settings),
            max_tokens=options.max_tokens,
            submit=worker.submit,
        )

    return open_conversation


def _sampling(options: Options, settings: ChatSettings) -> Sampling:
    return Sampling(
        settings.temperature if options.temperature is None else options.temperature,
        settings.top_p if options.top_p is None else options.top_p,
        options.seed,
    )


def _answer_once(
    message: str,
    open_conversation: Callable[[], Conversation],
    options: Options,
    environment: Environment,
) -> ExitStatus:
    output = Output(environment)
    if not options.json:
        output.progress("loading the model")
    conversation = open_conversation()
    with stopping_on_interrupt(conversation.cancel):
        events = conversation.send(message)
        return write_json(events, environment) if options.json else show(events, output)


def _print_version(options: Options, environment: Environment) -> ExitStatus:
    from dataclasses import asdict

    from dsv4_mlx.about import about

    facts = about(options.backend)
    if options.json:
        environment.stdout.write(json_line(asdict(facts)))
        return ExitStatus.OK
    by_implementation: dict[str, list[str]] = {}
    for kernel, implementation in facts.kernels.items():
        by_implementation.setdefault(implementation, []).append(kernel)
    lines = [f"dsv4-mlx {facts.version}", f"mlx {facts.mlx}", f"backend {facts.backend}"]
    lines += [f"kernels {how}: {', '.join(names)}" for how, names in by_implementation.items()]
    lines += [f"blas {facts.blas}"]
    environment.stdout.write("\n".join(lines) + "\n")
    return ExitStatus.OK


def _silence(environment: Environment) -> None:
    """Let nothing more be written to a reader that is gone, at exit neither."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (environment.stdout, environment.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(null, stream.fileno())
    os.close(null)
