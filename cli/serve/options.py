"""The command line of `dsv4-chat serve`."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cli.command_parser import CommandParser
from cli.environment import Environment
from cli.model_options import add_the_ends, add_the_model, add_the_script
from cli.option_values import size_or, whole
from cli.options import Options, require_text, stop_texts
from cli.ranks.fitting import require_fitting
from cli.ranks.options import add_the_machines
from cli.serve.client_configs import CLIENTS
from cli.serve.service_unit import SERVICES
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.paths import user_path

PORT = 8642
_HOSTS_PORT = "--hosts-port"

_USAGE = "dsv4-chat serve [options]"
_DESCRIPTION = """\
Answer programs over HTTP: chat completions, completions, Responses and
Anthropic messages, for one model that stays in memory. Conversations, their
branches and all that begins alike are read once.

What a request says of sampling, limits and thinking wins over these options.
"""
_EPILOG = """\
Only this machine may ask, unless --host names another address; that demands a
key. Ctrl-C or SIGTERM lets requests end, a second one does not.
Environment: DSV4_API_KEY (one key), DSV4_HOME (what is kept), DSV4_BACKEND
and DSV4_KERNELS (as --backend and --kernels).
"""


@dataclass(frozen=True)
class ServeOptions:
    """One command line of `serve`."""

    options: Options
    """What it says of the model."""
    host: str = "127.0.0.1"
    port: int = PORT
    key_file: Path | None = None
    aliases: tuple[str, ...] = ()
    max_waiting: int = 256
    cache_budget: int | None = None
    """Bytes of memory for what was read; None is half of what the model leaves."""
    idle_unload: float | None = None
    """Minutes after which a model that nobody asks is let go of."""
    warm: tuple[Path, ...] = ()
    trace: Path | None = None
    print_config: str | None = None
    print_service: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allow_sleep: bool = False


def parse_serve(arguments: list[str], environment: Environment) -> ServeOptions:
    """The options in `arguments`. Raises UsageError, or Helped once help is printed."""
    given = vars(_parser(environment).parse_args(arguments))
    names = {entry.name for entry in fields(Options)} - {"port", "allow_sleep"}
    hosts_port = given.pop("hosts_port")
    of_model = {name: value for name, value in given.items() if name in names}
    of_model["stop"] = stop_texts(of_model["stop"])
    require_text("--system", of_model["system"])
    sleeps = given["hosts"] is not None and given["allow_sleep"]
    options = Options(**of_model, port=hosts_port, allow_sleep=sleeps)
    require_fitting(options, port_option=_HOSTS_PORT)
    rest = {name: value for name, value in given.items() if name not in names}
    for name in ("aliases", "warm", "allowed_hosts", "allowed_origins"):
        rest[name] = tuple(rest[name] or ())
    rest["cache_budget"] = None if rest["cache_budget"] == "auto" else rest["cache_budget"]
    for alias in rest["aliases"]:
        require_text("--alias", alias)
        if not alias:
            raise UsageError("--alias takes a name of at least one character, got an empty one.")
    return ServeOptions(options, **rest)


def serve_help(environment: Environment) -> str:
    """What `dsv4-chat serve --help` prints."""
    return _parser(environment).format_help()


def _parser(environment: Environment) -> CommandParser:
    parser = CommandParser(environment, "dsv4-chat serve", _USAGE, _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    _add_the_door(add)
    _add_the_keeping(add)
    add_the_model(add)
    add_the_ends(add)
    add_the_script(add)
    add_the_machines(add, _HOSTS_PORT)
    return parser


def _add_the_door(add: Callable[..., Any]) -> None:
    """Who may ask, and where."""
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at")
    add("--port", type=whole(0, 65535), default=PORT, metavar="N", help=f"{PORT}; 0 is any free")
    add(
        "--api-key-file",
        dest="key_file",
        type=user_path,
        metavar="PATH",
        help="file with a key in each line; each is a person with conversations of their own",
    )
    add(
        "--alias",
        dest="aliases",
        action="append",
        metavar="NAME",
        help="one more name of the model; may be given again",
    )
    add(
        "--allow-host",
        dest="allowed_hosts",
        action="append",
        metavar="NAME",
        help="a name that this machine is called by, such as a proxy's; may be given again",
    )
    add(
        "--allow-origin",
        dest="allowed_origins",
        action="append",
        metavar="URL",
        help="a site whose pages may ask, as https://example.org; may be given again",
    )
    add(
        "--max-waiting",
        type=whole(1),
        default=256,
        metavar="N",
        help="requests, each with all its answers, that wait before more are refused",
    )
    add("--trace", type=user_path, metavar="FILE", help="write every request, prompts and all")
    add("--plain", action="store_true", help="a line for each request, nothing redrawn")
    add("--print-config", choices=CLIENTS, help="what to paste for a client; serves nothing")
    add("--print-service", choices=SERVICES, help="a unit that starts this server; serves nothing")


def _add_the_keeping(add: Callable[..., Any]) -> None:
    """What is kept, and for how long."""
    add(
        "--cache-budget",
        type=size_or("auto"),
        metavar="SIZE",
        help="memory for what was read, as 20GB; auto is half of what the model leaves",
    )
    add(
        "--idle-unload",
        type=whole(1),
        metavar="MIN",
        help="let go of the model when nobody asked for so many minutes",
    )
    add(
        "--warm",
        action="append",
        type=user_path,
        metavar="FILE",
        help="read what the requests in a trace begin with; may be given again",
    )
    add("--no-save", dest="keep", action="store_false", help="keep nothing on disk")
    add("--allow-sleep", action="store_true", help="let the machine sleep while requests run")
