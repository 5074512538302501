"""The configuration file: what it may say, what holds without it, and how it is printed.

`dsv4-chat config` prints every setting as a comment with its default, ready to be saved and edited.
The command line wins over the file.
"""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cli.environment import Environment, ExitStatus
from cli.kept.private_files import NoHome, config_home
from cli.options import BACKENDS, KV_CHOICES, LEVELS
from cli.output import Output
from dsv4_mlx.chat.loops import LOOPS, Loops
from dsv4_mlx.documents import DocumentError, content_of, parse_toml, shown
from dsv4_mlx.errors import UsageError
from dsv4_mlx.paths import user_path
from dsv4_mlx.sampling import RANGES, Range
from dsv4_mlx.sizes import GB, bytes_of

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Server:
    """An MCP server that the program starts and talks to over its stdin and stdout."""

    name: str
    command: str
    arguments: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    """Environment variables of the server, beside a few of ours."""
    trust: bool = False
    """Whether its tools run without asking."""
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Config:
    """Every setting; None means: as the checkpoint says, or no limit."""

    model: Path | None = None
    theme: str = "auto"
    reasoning: str = "fold"
    thinking: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    budget: int | None = None
    stop: tuple[str, ...] = ()
    loop: Loops = "notice"
    system: str | None = None
    kv: Literal["compact", "bf16"] = "compact"
    backend: str = "auto"
    tools: bool = False
    status_line: bool = True
    auto_compact: bool = False
    plain: bool = False
    session_kv_bytes: int = 20 * GB
    snapshot_bytes: int = 1 << 30
    prefix_bytes: int = 10 * GB
    servers: tuple[Server, ...] = ()


def config_path(environment: Environment) -> Path:
    """Where the file is or would be; NoHome where there is no place for it."""
    return config_home(environment.variables) / "config.toml"


def load(environment: Environment) -> Config:
    """The file's settings, defaults where it is silent; UsageError says which entry is wrong."""
    try:
        path = config_path(environment)
    except NoHome:
        return Config()
    try:
        content = content_of(path, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return Config()
    except OSError as error:
        if not os.access(path.parent, os.X_OK):  # the home of somebody else, as sudo leaves it
            Output(environment).note(f"[{path} cannot be reached: {error.strerror}; defaults hold]")
            return Config()
        raise UsageError(f"{path}: {error.strerror}.") from error
    except DocumentError as error:
        raise UsageError(f"{path} {error}; correct it.") from error
    return parsed(content, path)


def parsed(text: bytes | str, path: Path) -> Config:
    """The settings in `text`, the content of the file `path`."""
    try:
        content = parse_toml(text)
    except DocumentError as error:
        raise UsageError(f"{path} {error}; correct it.") from error
    servers = _servers(content.pop("mcp", {}), path)
    known = {setting.key: setting for setting in SETTINGS}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise UsageError(
                f"{path}: {key!r} is no setting; the settings are {', '.join([*known, 'mcp'])}."
            )
        values[known[key].field] = known[key].value(value, path)
    return Config(servers=servers, **values)


def commented() -> str:
    """The file with every default as a comment; with all `#` before settings gone, it parses to
    `Config()`."""
    lines = [_OPENING]
    for setting in SETTINGS:
        lines += [f"# {setting.help}", f"#{setting.key} = {setting.default}", ""]
    return "\n".join([*lines, _SERVERS])


def print_config(environment: Environment, *, path: bool = False) -> ExitStatus:
    """`dsv4-chat config`: the commented defaults; with `path`, where the file is."""
    stdout = environment.stdout
    text = f"{config_path(environment)}\n" if path else commented()
    if stdout.isatty() or not hasattr(stdout, "buffer"):
        stdout.write(text)
    else:  # for another program, which wants the very bytes of a path
        stdout.buffer.write(os.fsencode(text))
    return ExitStatus.OK


@dataclass(frozen=True)
class Setting:
    """One line of the file."""

    key: str
    default: str
    """As TOML."""
    help: str
    expected: str
    read: Callable[[Any], Any]
    """The value as `Config` keeps it; ValueError or TypeError for one that does not fit."""
    field: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "field", self.field or self.key)

    def value(self, found: object, path: Path) -> Any:
        try:
            return self.read(found)
        except UsageError as error:
            raise UsageError(f"{path}: {self.key}: {error}") from error
        except (ValueError, TypeError, OverflowError) as error:
            raise UsageError(
                f"{path}: {self.key} must be {self.expected}, found {shown(found)}."
            ) from error


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _text(value: object) -> str:
    _require(isinstance(value, str))
    return str(value)


def _switch(value: object) -> bool:
    _require(isinstance(value, bool))
    return bool(value)


def _number(value: Any) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool))
    _require(math.isfinite(value))
    return float(value)


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: object) -> str:
        _require(isinstance(value, str) and value in choices)
        return str(value)

    return read


def _none_for(word: str, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value == word else read(value)


def _at_least(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[Any], Any]:
    def read(value: Any) -> float:
        number = _number(value)
        _require((number > least if above else number >= least) and number <= most)
        return number

    return read


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        _require(isinstance(value, int) and not isinstance(value, bool))
        _require(least <= value < 1 << 63)
        return int(value)

    return read


def _within(range_: Range) -> Callable[[Any], Any]:
    def read(value: Any) -> float:
        _require(value in range_)
        return value if range_.whole else float(value)

    return read


def _size(value: Any) -> int:
    """Bytes of a text like `20 GB`, `20GB` or `1.5 gib`."""
    return bytes_of(_text(value))


def _stop_texts(value: object) -> tuple[str, ...]:
    texts = _texts(value)
    _require("" not in texts)
    return texts


def _folder(value: object) -> Path | None:
    return user_path(_text(value)) if value != "" else None


def _program(value: object) -> str:
    """A program's name, looked for as a shell does, or its path."""
    name = _text(value)
    return str(user_path(name)) if name.startswith("~") else name


def _sampled(name: str, help_: str) -> Setting:
    expected = f"auto or {RANGES[name]}"
    return Setting(name, '"auto"', help_, expected, _none_for("auto", _within(RANGES[name])))


_A_SIZE = 'a size like "20 GB" or "512 MiB"'
_ON = "true or false"

SETTINGS = (
    Setting("model", '""', "Checkpoint folder; empty is the small model that comes with the"
            " program.", "a folder's path", _folder),
    Setting("theme", '"auto"', "Colours: auto, dark, light or plain.",
            "auto, dark, light or plain", _one_of("auto", "dark", "light", "plain")),
    Setting("reasoning", '"fold"', "Reasoning in the conversation: show, fold (to one line when it"
            " ends) or hide.", "show, fold or hide", _one_of("show", "fold", "hide")),
    Setting("thinking", '"auto"', f"Thinking level: {', '.join(LEVELS)}, as far as the checkpoint"
            " has it; auto is its default.", f"auto, {', '.join(LEVELS)}",
            _none_for("auto", _one_of(*LEVELS))),
    _sampled("temperature", "Sampling temperature, 0 is greedy; auto is what the checkpoint says."),
    _sampled("top_p", "Share of the likeliest tokens to draw from; auto is what the checkpoint"
             " says."),
    _sampled("min_p", "How likely a token must be to be drawn, the likeliest being 1."),
    _sampled("top_k", "How many of the likeliest tokens to draw from; 0 is all of them."),
    _sampled("repetition_penalty", "Above 1, what was said already, the prompt's words too, becomes"
             " less likely."),
    Setting("max_tokens", '"unlimited"', "Longest reply in tokens, reasoning included.",
            "unlimited or a whole number from 1 on", _none_for("unlimited", _whole(1))),
    Setting("budget", '"unlimited"', "Most tokens of reasoning before an answer.",
            "unlimited or a whole number from 0 on", _none_for("unlimited", _whole(0))),
    Setting("stop", "[]", "Texts that end an answer where they would come, such as [\"\\nUser:\"].",
            "a list of texts that are not empty", _stop_texts),
    Setting("loop", '"notice"', "What happens when reasoning or an answer says the same without"
            " end: notice, stop or off.", ", ".join(LOOPS), _one_of(*LOOPS)),
    Setting("system", '""', "System message of new conversations; empty is none.", "a text",
            _none_for("", _text)),
    Setting("kv", '"compact"', "How the cache keeps entries: compact or bf16; both hold the same"
            " values.", "compact or bf16", _one_of(*KV_CHOICES)),
    Setting("backend", '"auto"', f"Where the model runs: {', '.join(BACKENDS)}.",
            ", ".join(BACKENDS), _one_of(*BACKENDS)),
    Setting("tools", "false", "Whether the model may use tools when a conversation begins.", _ON,
            _switch),
    Setting("status_line", "true", "Whether the line above the input tells how things stand.", _ON,
            _switch),
    Setting("auto_compact", "false", "Whether /compact runs by itself when the context is nearly"
            " full.", _ON, _switch),
    Setting("plain", "false", "Plain lines instead of a redrawn screen, for screen readers.", _ON,
            _switch),
    Setting("session_budget", '"20 GB"', "Disk for the caches of kept conversations; the least"
            " recently used go first.", _A_SIZE, _size, "session_kv_bytes"),
    Setting("snapshot_budget", '"1 GiB"', "Memory for the places that undo, retry and edit return"
            " to.", _A_SIZE, _size, "snapshot_bytes"),
    Setting("prefix_budget", '"10 GB"', "Disk for the caches of beginnings that one-shot messages"
            " share.", _A_SIZE, _size, "prefix_bytes"),
)  # fmt: skip

_OPENING = """\
# Settings of dsv4-chat with their defaults. Take the "#" before a setting away to change it;
# the command line wins over this file.
"""
_SERVERS = """\
# MCP servers, whose tools the model may use when tools are on; they need the package mcp
# (pip install "dsv4-mlx[mcp]"). Every call asks, unless trust is true. One table for each server:
#
#   [mcp.notes]
#   command = "notes-server"
#   args = ["--folder", "/home/me/notes"]
#   env = { NOTES_TOKEN = "secret" }
#   trust = false
#   timeout_s = 60
"""


# MCP servers

_SERVER_SETTINGS = {
    "command": ("a program's name or path", _program),
    "args": ("a list of texts", lambda value: _texts(value)),
    "env": ("a table of texts", lambda value: _texts_by_name(value)),
    "trust": (_ON, _switch),
    "timeout_s": ("a number of seconds above 0", _at_least(0, 86_400, above=True)),
}
_SERVER_FIELDS = {"args": "arguments", "env": "variables"}


def _texts(value: object) -> tuple[str, ...]:
    _require(isinstance(value, list))
    assert isinstance(value, list)
    return tuple(_text(entry) for entry in value)


def _texts_by_name(value: object) -> tuple[tuple[str, str], ...]:
    _require(isinstance(value, dict))
    assert isinstance(value, dict)
    return tuple((_text(name), _text(entry)) for name, entry in value.items())


def _servers(found: object, path: Path) -> tuple[Server, ...]:
    if not isinstance(found, dict) or not all(isinstance(table, dict) for table in found.values()):
        raise UsageError(f"{path}: mcp holds one table for each server, such as [mcp.notes].")
    return tuple(_server(name, table, path) for name, table in found.items())


def _server(name: str, table: Mapping[str, object], path: Path) -> Server:
    values: dict[str, Any] = {}
    if not _is_server_name(name):
        raise UsageError(
            f"{path}: the name of an MCP server has at most 32 letters, digits, - and _, "
            f"found {name!r}."
        )
    for key, found in table.items():
        if key not in _SERVER_SETTINGS:
            raise UsageError(
                f"{path}: mcp.{name} has the unknown setting {key!r}; it may have "
                f"{', '.join(_SERVER_SETTINGS)}."
            )
        expected, read = _SERVER_SETTINGS[key]
        setting = Setting(f"mcp.{name}.{key}", "", "", expected, read)
        values[_SERVER_FIELDS.get(key, key)] = setting.value(found, path)
    if not values.get("command"):
        raise UsageError(f"{path}: mcp.{name} needs a command, the program to start.")
    return Server(name, **values)


def _is_server_name(name: str) -> bool:
    """Names become parts of tool names, which models and other programs expect to be plain."""
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum() and len(name) <= 32
