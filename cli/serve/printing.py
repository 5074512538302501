"""What `dsv4-chat serve` prints instead of serving: what its command line means for others."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cli import config
from cli.completed_options import completed
from cli.environment import KEY_VARIABLE, Environment
from cli.machine.expert_memory import bytes_for_experts, fit_of
from cli.models import script_file
from cli.opened_model import embedded_model
from cli.options import Options
from cli.serve.client_configs import ServerAddress, client_config
from cli.serve.options import ServeOptions
from cli.serve.service_unit import program_in_use, service_unit
from cli.serve.to_paste import ToPaste
from dsv4_mlx.errors import Dsv4Error, UsageError
from dsv4_mlx.files.documents import content_of
from dsv4_mlx.release.identity import name_of

if TYPE_CHECKING:
    from dsv4_mlx.weights.checkpoint import ModelFolder

_BOTH = (
    "The context is what this Mac's memory allows; where the other allows less, /v1/models has it."
)

_FIRST_KEY = (
    "The key is the first of {count} in {file}; whoever else pastes this writes their own in its "
    "place, since a key is a person with conversations of their own."
)


def to_paste(
    given: ServeOptions, arguments: Sequence[str], environment: Environment
) -> ToPaste | None:
    """What was asked to be printed, if anything was; `arguments` are those of `serve`."""
    if given.print_service is not None:
        return service_unit(
            given.print_service,
            ["serve", *arguments],
            program=program_in_use(),
            variables=environment.variables,
            folder=Path.cwd(),
            home=Path.home(),
        )
    if given.print_config is not None:
        keys = _keys(given, environment)
        server = _address(given, environment, keys[0] if keys else "")
        paste = client_config(given.print_config, server)
        notes = list(paste.notes)
        if given.options.hosts is not None and str(server.context) in paste.text:
            notes.append(_BOTH)
        if len(keys) > 1:
            notes.append(_FIRST_KEY.format(count=len(keys), file=given.key_file))
        return ToPaste(paste.text, tuple(notes))
    return None


def _address(given: ServeOptions, environment: Environment, key: str) -> ServerAddress:
    """Where the server would answer; raises what opening the model's folder raises."""
    options = completed(given.options, config.load(environment))
    name, context = _model(options)
    return ServerAddress(given.host, given.port, name, key, context)


def _model(options: Options) -> tuple[str, int | None]:
    """Name and context of the model; None where memory does not tell."""
    if options.engine is not None:
        from dsv4_mlx.scripted.script import read_script

        script = read_script(script_file(options.engine))
        return script.name, script.context
    from dsv4_mlx.weights.checkpoint import open_folder

    opened = open_folder(options.model or embedded_model())
    with suppress(Dsv4Error):  # what does not fit here may fit where the server is
        return name_of(opened.folder), _context(opened, options)
    return name_of(opened.folder), None


def _context(opened: "ModelFolder", options: Options) -> int | None:
    """Tokens of prompt and reply that memory allows, as the server tells its clients; None where it
    allows none."""
    from dsv4_mlx.serving.limits import ServingLimits, bytes_of_timelines
    from dsv4_mlx.sizing.costs import Costs

    longest = opened.described.max_position_embeddings
    left = (_left_here if options.hosts is None else _left_of_two)(opened, options)
    if left is None:
        return longest
    bytes_of = bytes_of_timelines(Costs(opened.checkpoint.config), options.kv or "compact")
    found = ServingLimits(memory_bytes=left, bytes_of=bytes_of).longest(longest)
    return found if found > 0 else None


def _left_here(opened: "ModelFolder", options: Options) -> int | None:
    """Bytes that timelines have beside a model on this machine alone; None is no bound."""
    kv, backend = options.kv or "compact", options.backend or "auto"
    memory = "auto" if options.expert_memory is None else options.expert_memory
    pools = bytes_for_experts(opened, memory, kv, backend=backend)
    fit = fit_of(opened.checkpoint, pools, kv, backend=backend)
    return None if fit.limit is None else max(0, fit.limit - fit.needed(0))


def _left_of_two(opened: "ModelFolder", options: Options) -> int:
    """Bytes that timelines have beside a model on two machines, as far as this one tells: the other
    is not asked, and taken for one that has room for its layers, and all of the model's files."""
    from cli.machine.machine import read_machine
    from cli.ranks.timeline_room import timeline_bytes
    from dsv4_mlx.forming import prepare

    kv = options.kv or "compact"
    mine = prepare(opened.folder, 0, options.backend or "auto", kv)
    mine = mine.beside((0, opened.checkpoint.config.num_hidden_layers))
    limit = read_machine().limit(mine.backend)
    return timeline_bytes([mine.facts("", "", "", limit)], opened.checkpoint.config, kv)


def _keys(given: ServeOptions, environment: Environment) -> list[str]:
    """The keys of the server's file, else the one of the environment."""
    if given.key_file is None:
        key = environment.variables.get(KEY_VARIABLE)
        return [key] if key else []
    try:
        lines = content_of(given.key_file).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise UsageError(f"--api-key-file {given.key_file}: {error.strerror}.") from error
    keys = (line.strip() for line in lines)
    return [key for key in keys if key and not key.startswith("#")]
