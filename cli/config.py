"""The configuration file: what it may say, what holds without it, and how it is printed.

`dsv4-chat config` prints every setting as a comment with its default, ready to be saved and edited.
The command line wins over the file.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cli.config_servers import Server, servers
from cli.config_settings import SETTINGS
from cli.environment import Environment, ExitStatus
from cli.kept.private_files import NoHome, config_home
from cli.show.output import PlainOutput
from dsv4_mlx.chat.loops import Loops
from dsv4_mlx.engine.draft_choice import DraftChoice
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import DocumentError, content_of, parse_toml
from dsv4_mlx.files.sizes import GB

_MOST_BYTES = 1 << 20


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
    prefill_chunk: int | None = None
    compile: bool = True
    draft: DraftChoice = "auto"
    draft_max: int | None = None
    expert_memory: int | None = None
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
            PlainOutput(environment).note(
                f"[{path} cannot be reached: {error.strerror}; defaults hold]"
            )
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
    found = servers(content.pop("mcp", {}), path)
    known = {setting.key: setting for setting in SETTINGS}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise UsageError(
                f"{path}: {key!r} is no setting; the settings are {', '.join([*known, 'mcp'])}."
            )
        values[known[key].field] = known[key].value(value, path)
    return Config(servers=found, **values)


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
