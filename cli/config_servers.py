"""MCP servers in the configuration file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.config_values import (
    ON,
    Setting,
    at_least,
    program,
    switch,
    texts,
    texts_by_name,
)
from dsv4_mlx.errors import UsageError


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


_SERVER_SETTINGS = {
    "command": ("a program's name or path", program),
    "args": ("a list of texts", texts),
    "env": ("a table of texts", texts_by_name),
    "trust": (ON, switch),
    "timeout_s": ("a number of seconds above 0", at_least(0, 86_400, above=True)),
}
_SERVER_FIELDS = {"args": "arguments", "env": "variables"}


def servers(found: object, path: Path) -> tuple[Server, ...]:
    """The servers of the table `mcp` in the file `path`; UsageError for what is none."""
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
