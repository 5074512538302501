"""`dsv4-chat`: from the command line to an exit status.

The main thread owns the terminal. One worker thread owns the model: it loads it, since MLX ties
lazy arrays to the thread that made them, and it runs every answer.
"""

import os
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cli import config
from cli.command_parser import Helped
from cli.completed_options import backend_of, completed, loading
from cli.environment import Environment, ExitStatus, own_variables, working_folder
from cli.kept.draft_times import kept_draft_times
from cli.kept.expert_uses import kept_expert_uses
from cli.kept.prefixes import stored_prefixes
from cli.kept.private_files import state_home
from cli.kept.row_findings import kept_row_findings
from cli.kept.sessions import SessionStore
from cli.models import Models
from cli.once.answer_output import write_json_error
from cli.once.oneshot import answer, read_message
from cli.once.resumed import Resumed
from cli.opened_model import embedded_model, left_out_sentence
from cli.options import Options, parse
from cli.preferences import Preferences
from cli.ranks.fitting import require_fitting
from cli.ranks.run import RanksOfRun, is_started, quiet_worker, ranks_of
from cli.safe import json_line
from cli.show.output import PlainOutput
from cli.standard_output import UnwrittenError, let_go
from cli.tools.use import toolbox_in
from cli.worker import Worker
from dsv4_mlx.errors import Dsv4Error, UsageError
from dsv4_mlx.files.hub_cache import snapshot_sentence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.models import Load
    from cli.tools.use import MakeToolbox
    from dsv4_mlx.chat.answer_settings import AnswerSettings
    from dsv4_mlx.chat.conversation import Conversation, Turn

_PATIENCE_S = 2.0


def main(
    argv: list[str] | None = None,
    *,
    environment: Environment | None = None,
    open_model: "Load | None" = None,
) -> int:
    """Run `dsv4-chat` with `argv` (sys.argv without the program by default); the exit status.

    `environment` and `open_model` replace the streams and the model in tests.
    """
    environment = quiet_worker(environment or Environment(variables=own_variables()))
    worker = Worker()
    try:
        arguments = sys.argv[1:] if argv is None else argv
        status = _guarded(arguments, environment, worker, open_model)
        status = _flushed(status, environment)
    except BrokenPipeError:
        # The reader left, as `head` does: not worth a sentence.
        status = ExitStatus.ERROR
    for stream in (environment.stdout, environment.stderr):
        let_go(stream)
    try:
        has_ended = worker.ends_within(_PATIENCE_S)
    except KeyboardInterrupt:  # a person who does not want to wait
        has_ended = False
    if not has_ended:
        # Half-way through loading gigabytes there is nothing to save and no reason to wait.
        os._exit(status)
    return status


def _guarded(
    arguments: list[str], environment: Environment, worker: Worker, open_model: "Load | None"
) -> ExitStatus:
    """Every expected end as an exit status; only our own mistakes pass as tracebacks."""
    options = Options()
    try:
        if arguments[:1] == ["serve"]:
            from cli.serve.command import serve

            return serve(arguments[1:], environment, worker, open_model)
        options = parse(arguments, environment)
        return _run(options, environment, worker, open_model)
    except Helped:
        return ExitStatus.OK
    except KeyboardInterrupt:
        PlainOutput(environment).close_lines()
        return ExitStatus.INTERRUPTED
    except UsageError as error:
        return _fail(str(error), ExitStatus.USAGE, options, environment)
    except Dsv4Error as error:
        if isinstance(error, UnwrittenError):
            let_go(environment.stdout)  # it is said once
        return _fail(str(error), ExitStatus.ERROR, options, environment)
    except BrokenPipeError:
        raise
    except OSError as error:
        sentence = f"{error.filename or 'input or output'}: {error.strerror}."
        return _fail(sentence, ExitStatus.ERROR, options, environment)


def _flushed(status: ExitStatus, environment: Environment) -> ExitStatus:
    """`status`, once everything is written; a full disk shows only now when little was said."""
    try:
        environment.stdout.flush()
    except UnwrittenError as error:
        return _fail(str(error), status or ExitStatus.ERROR, Options(), environment)
    return status


def _fail(
    sentence: str, status: ExitStatus, options: Options, environment: Environment
) -> ExitStatus:
    if options.json:
        with suppress(OSError):  # stdout may be full as well
            write_json_error(sentence, environment)
    PlainOutput(environment).error(sentence)
    return status


def _run(
    options: Options, environment: Environment, worker: Worker, open_model: "Load | None"
) -> ExitStatus:
    if options.version:
        return _print_version(replace(options, backend=backend_of(options)), environment)
    if options.subcommand == "config":
        return config.print_config(environment, path=options.path)
    require_fitting(options, is_started=is_started(environment.variables))
    chosen = config.load(environment)
    if options.server is not None:
        from cli.remote.remote_models import check_remote_options

        check_remote_options(options)
    options = completed(options, chosen)
    if options.subcommand == "doctor":
        from cli.machine import doctor

        folder: Path | None = options.model or embedded_model()
        more = None
        if options.server is not None:
            from cli.server_page import server_page

            folder, more = None, partial(server_page, options=options, environment=environment)
        return doctor.run(
            environment,
            folder,
            backend=options.backend or "auto",
            kv=options.kv or "compact",
            prefill_chunk=options.prefill_chunk,
            compile=options.compile,
            findings=kept_row_findings(environment.variables, options.keep),
            uses=kept_expert_uses(environment.variables, options.keep),
            disk=options.disk,
            more=more,
            json=options.json,
        )
    with ranks_of(options, environment, chosen) as ranks:
        if ranks.follow is not None:
            return ranks.follow()
        return _answer(options, ranks.environment, worker, open_model, chosen, ranks)


def _answer(
    options: Options,
    environment: Environment,
    worker: Worker,
    open_model: "Load | None",
    chosen: config.Config,
    ranks: RanksOfRun,
) -> ExitStatus:
    """One message and its answer, or the prompt."""
    preferences = Preferences.configured(chosen).given(options)
    message = read_message(options, environment)
    models = _models(options, environment, worker, open_model, chosen, ranks)
    folder = options.model or embedded_model()
    model = models.first(folder)
    is_folder = options.engine is None and options.server is None
    if is_folder and (chosen_one := snapshot_sentence(folder, model.folder)):
        PlainOutput(environment).note(f"[{chosen_one}]")
    settings = preferences.answer_settings(model.settings)
    if settings.thinking.level == "max":
        PlainOutput(environment).note(f"[{models.max_level_note(model)}]")
    if message is None:
        from cli.talk.interactive import talk

        return talk(environment, options, chosen, models, model, preferences)

    def begin(settings: "AnswerSettings", turns: "Sequence[Turn]" = ()) -> "Conversation":
        tell = PlainOutput(environment).note
        begun = models.conversation(model, settings, turns, tell=lambda text: tell(f"[{text}]"))
        for note in ranks.notes:
            tell(f"[{note}]")
        return begun

    def tools(preferences: Preferences) -> "MakeToolbox | None":
        return toolbox_in(working_folder(), chosen.servers) if preferences.tools else None

    if options.resume is None:
        made = tools(preferences)
        return answer(message, lambda: begin(settings), options, environment, make_toolbox=made)
    root = state_home(environment.variables) / "sessions"
    store = SessionStore(root, kv_budget_bytes=chosen.session_kv_bytes)
    resumed = Resumed(store, options, PlainOutput(environment).note)
    preferences, problem = resumed.preferences(preferences, options).fitting(model.settings)
    if problem is not None:
        PlainOutput(environment).note(f"[{problem}]")
    turns, settings = resumed.turns(model.place), preferences.answer_settings(model.settings)
    return answer(
        message,
        lambda: begin(settings, turns),
        options,
        environment,
        resumed,
        make_toolbox=tools(preferences),
    )


def _models(
    options: Options,
    environment: Environment,
    worker: Worker,
    open_model: "Load | None",
    chosen: config.Config,
    ranks: RanksOfRun,
) -> Models:
    """What opens the model of this run, or uses that of a server."""
    if options.server is not None:
        from cli.remote.remote_models import remote_models

        return remote_models(worker, options, environment)
    prefixes = stored_prefixes(
        environment.variables, chosen.prefix_bytes if options.keep else 0, options.kv or "compact"
    )
    return Models(
        worker,
        options,
        open_model or loading(options, chosen, environment),
        prefixes=prefixes,
        snapshot_bytes=chosen.snapshot_bytes,
        draft_times=kept_draft_times(environment.variables, options.keep),
        expert_uses=kept_expert_uses(environment.variables, options.keep),
        ranks=ranks.pair,
        open_first=ranks.open,
    )


def _print_version(options: Options, environment: Environment) -> ExitStatus:
    from dsv4_mlx.about import about

    facts = about(options.backend or "auto", compile=options.compile)
    if options.json:
        environment.stdout.write(json_line(asdict(facts)))
        return ExitStatus.OK
    by_implementation: dict[str, list[str]] = {}
    for kernel, implementation in facts.kernels.items():
        by_implementation.setdefault(implementation, []).append(kernel)
    lines = [f"dsv4-mlx {facts.version}", f"mlx {facts.mlx}", f"backend {facts.backend}"]
    lines += [f"kernels {how}: {', '.join(names)}" for how, names in by_implementation.items()]
    lines += [f"left out {left_out_sentence(facts.left_out)}"] if facts.left_out else []
    lines += ["tokens by a graph that is built once"] if facts.compiled else []
    lines += [f"blas {facts.blas}"]
    environment.stdout.write("\n".join(lines) + "\n")
    return ExitStatus.OK
