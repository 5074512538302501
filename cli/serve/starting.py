"""From the options of `dsv4-chat serve` to a running server and its end.

The main thread runs the event loop, the worker's thread the model. SIGTERM and Ctrl-C let requests
end for a while; then they are cancelled, and what was read and said is kept. The second one ends
the program at once.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from cli import config
from cli.completed_options import completed, loading
from cli.environment import KEY_VARIABLE, Environment, ExitStatus
from cli.kept.draft_times import kept_draft_times
from cli.models import Models
from cli.opened_model import embedded_model
from cli.preferences import Preferences
from cli.ranks.run import ranks_of
from cli.serve.access import Access, read_keys
from cli.serve.making import ServiceMaker
from cli.serve.options import ServeOptions
from cli.serve.running import RunningServer
from cli.serve.served_model import ServedModel
from cli.serve.status_screen import server_display
from cli.worker import Worker

if TYPE_CHECKING:
    from cli.models import Load
    from cli.ranks.starting import RankPair


def start(
    given: ServeOptions,
    environment: Environment,
    worker: Worker,
    open_model: "Load | None" = None,
) -> ExitStatus:
    """Serve until a signal ends it; raises as `command.serve` does."""
    access = Access(
        read_keys(given.key_file, environment.variables.get(KEY_VARIABLE)),
        given.host,
        given.allowed_hosts,
        given.allowed_origins,
    )
    chosen = config.load(environment)
    given = replace(given, options=completed(given.options, chosen))
    maker = ServiceMaker(given, environment, chosen)
    with ranks_of(given.options, environment, chosen, maker.settings) as ranks:
        if ranks.follow is not None:
            return ranks.follow()
        model = _model(given, environment, worker, open_model, chosen, maker, ranks.pair)
        opened = model.start()
        preferences = Preferences.configured(chosen).given(given.options)
        defaults = preferences.answer_settings(opened.settings)
        names = tuple(dict.fromkeys((opened.name, *given.aliases)))
        plain = given.options.plain or chosen.plain
        display = server_display(environment, chosen.theme, plain=plain)
        server = RunningServer(given, access, model, environment, display)
        return server.run(names, defaults, maker.folder)


def _model(
    given: ServeOptions,
    environment: Environment,
    worker: Worker,
    open_model: "Load | None",
    chosen: config.Config,
    maker: ServiceMaker,
    pair: "RankPair | None",
) -> ServedModel:
    options = given.options
    models = Models(
        worker,
        options,
        open_model or loading(options, chosen, environment),
        draft_times=kept_draft_times(environment.variables, options.keep),
        ranks=pair,
    )
    folder = options.model or embedded_model()
    end = None if pair is None else pair.end
    return ServedModel(
        worker, lambda: maker.opened(models.first(folder)), maker.service, end_ranks=end
    )
