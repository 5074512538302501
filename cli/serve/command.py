"""`dsv4-chat serve`: from its command line to a running server and its end.

The main thread runs the event loop, the worker's thread the model. SIGTERM and Ctrl-C let requests
end for a while; then they are cancelled, and what was read and said is kept. The second one ends
the program at once.
"""

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cli import config
from cli.completed_options import completed, loading
from cli.environment import Environment, ExitStatus
from cli.kept.draft_times import kept_draft_times
from cli.models import Models
from cli.opened_model import embedded_model
from cli.preferences import Preferences
from cli.serve.access import Access, read_keys
from cli.serve.making import ServiceMaker
from cli.serve.options import ServeOptions, parse_serve
from cli.serve.served_model import ServedModel
from cli.show.output import PlainOutput
from cli.worker import Worker
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.models import Load

_NEEDED: Final = ("starlette", "uvicorn", "httptools")


def serve(
    arguments: list[str],
    environment: Environment,
    worker: Worker,
    open_model: "Load | None" = None,
) -> ExitStatus:
    """Serve until a signal ends it. Raises UsageError for options that contradict each other, and
    what opening the model raises."""
    given = parse_serve(arguments, environment)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"dsv4-chat serve needs {', '.join(missing)}, which the extra `serve` brings: "
            "pip install 'dsv4-mlx[serve]'."
        )
    from cli.serve.running import RunningServer

    variables = environment.variables
    access = Access(
        read_keys(given.key_file, variables.get("DSV4_API_KEY")),
        given.host,
        given.allowed_hosts,
        given.allowed_origins,
    )
    chosen = config.load(environment)
    given = replace(given, options=completed(given.options, chosen))
    model = _model(given, environment, worker, open_model, chosen)
    opened = model.start()
    preferences = Preferences.configured(chosen).given(given.options)
    defaults = preferences.answer_settings(opened.settings)
    names = tuple(dict.fromkeys((opened.name, *given.aliases)))
    server = RunningServer(given, access, model, environment, PlainOutput(environment).note)
    return server.run(names, defaults)


def _model(
    given: ServeOptions,
    environment: Environment,
    worker: Worker,
    open_model: "Load | None",
    chosen: config.Config,
) -> ServedModel:
    options = given.options
    models = Models(
        worker,
        options,
        open_model or loading(options, chosen, environment),
        draft_times=kept_draft_times(environment.variables, options.keep),
    )
    folder = options.model or embedded_model()
    maker = ServiceMaker(given, environment, chosen)
    return ServedModel(worker, lambda: maker.opened(models.first(folder)), maker.service)
