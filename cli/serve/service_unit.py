"""Units that keep the server running: `dsv4-chat serve ... --print-service launchd|systemd`.

A unit starts the program that printed it, with the options of that command line and with paths that
hold from any folder. It holds no key: whoever may list processes or read units would see it.
"""

import plistlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which
from typing import Final

from cli.environment import KEY_VARIABLE
from cli.serve.to_paste import ToPaste
from dsv4_mlx.errors import UsageError

SERVICES = ("launchd", "systemd")
KEY_OPTION: Final = "--api-key-file"
_PRINTING = "--print-service"
_LABEL = "dsv4-chat.serve"
_PATH_OPTIONS = ("--model", KEY_OPTION, "--warm", "--trace", "--hosts", "--expert-trace")
_KEPT_VARIABLES = ("DSV4_HOME", "DSV4_BACKEND", "DSV4_KERNELS", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
_ENDING_S = 60
"""How long an end may take: answers that run are finished or kept."""


def service_unit(
    kind: str,
    arguments: Sequence[str],
    *,
    program: Sequence[str],
    variables: Mapping[str, str],
    folder: Path,
    home: Path,
) -> ToPaste:
    """The unit of `kind`, one of SERVICES, that runs `program` with `arguments`.

    `arguments` are the command line after the program's name, `folder` is where its paths begin.
    UsageError where the key stands in the environment, which a unit would have to spell out.
    """
    options = unit_arguments(arguments, folder)
    if variables.get(KEY_VARIABLE) and not any(_is_option(one, KEY_OPTION) for one in options):
        raise UsageError(
            f"A unit holds no key and {KEY_VARIABLE} is one; write it to a file that you alone can "
            f"read and give {KEY_OPTION} FILE."
        )
    command = [*program, *options]
    kept = {name: variables[name] for name in _KEPT_VARIABLES if variables.get(name)}
    if kind == "launchd":
        return _launchd(command, kept, home)
    return _systemd(command, kept, home)


def program_in_use(started_as: str | None = None) -> tuple[str, ...]:
    """The absolute words that start this program again; `started_as` is `sys.argv[0]`."""
    name = sys.argv[0] if started_as is None else started_as
    found = which(name) if Path(name).name == "dsv4-chat" else None
    if found is not None:
        return (str(Path(found).absolute()),)
    return (str(Path(sys.executable).absolute()), "-P", "-m", "cli")


def unit_arguments(arguments: Sequence[str], folder: Path) -> list[str]:
    """The command line of a unit: without the option that prints it, its paths absolute."""
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == _PRINTING:
            if not equals:
                next(rest, None)
        elif name in (*_PATH_OPTIONS, "--engine") and equals:
            words.append(f"{name}={_absolute(name, value, folder)}")
        elif name in (*_PATH_OPTIONS, "--engine"):
            words += [name, *(_absolute(name, path, folder) for path in [next(rest, "")])]
        else:
            words.append(word)
    return words


def _absolute(option: str, value: str, folder: Path) -> str:
    """`value` from any folder; of `fake:FILE` the file."""
    if option == "--engine":
        kind, colon, file = value.partition(":")
        return f"{kind}{colon}{_absolute('', file, folder)}" if file else value
    return str((folder / Path(value).expanduser()).absolute())


def _is_option(word: str, option: str) -> bool:
    return word.partition("=")[0] == option


def _launchd(command: Sequence[str], variables: Mapping[str, str], home: Path) -> ToPaste:
    unit = {
        "Label": _LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(variables),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        # Otherwise macOS gives it the time and the disk of work that nobody waits for.
        "ProcessType": "Interactive",
        "ExitTimeOut": _ENDING_S,
        "WorkingDirectory": str(home),
        "StandardOutPath": str(home / "Library/Logs/dsv4-chat.log"),
        "StandardErrorPath": str(home / "Library/Logs/dsv4-chat.log"),
    }
    place = f"~/Library/LaunchAgents/{_LABEL}.plist"
    notes = (
        f"Write to {place}, then: launchctl bootstrap gui/$(id -u) {place}",
        f"Ends with: launchctl bootout gui/$(id -u)/{_LABEL}; logs in ~/Library/Logs/dsv4-chat.log",
    )
    return ToPaste(plistlib.dumps(unit, sort_keys=False).decode(), notes)


def _systemd(command: Sequence[str], variables: Mapping[str, str], home: Path) -> ToPaste:
    settings = [f"{name}={value}" for name, value in variables.items()]
    # A dollar is a variable in a command, and a character elsewhere.
    lines = [
        "[Unit]",
        "Description=DeepSeek-V4 for other programs (dsv4-chat serve)",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={' '.join(_quoted(word).replace('$', '$$') for word in command)}",
        *([f"Environment={' '.join(map(_quoted, settings))}"] if settings else []),
        f"WorkingDirectory={_percent(str(home))}",
        "Restart=on-failure",
        "RestartSec=10",
        # A wrong option is as wrong the next time.
        "RestartPreventExitStatus=2",
        f"TimeoutStopSec={_ENDING_S}",
        # The ranks of two machines are ended by the server, once it has answered.
        "KillMode=mixed",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    notes = (
        "Write to ~/.config/systemd/user/dsv4-chat.service, then: systemctl --user daemon-reload",
        "Starts with: systemctl --user enable --now dsv4-chat; "
        "logs: journalctl --user -u dsv4-chat",
        "Runs while nobody is logged in after: loginctl enable-linger",
    )
    return ToPaste("\n".join(lines) + "\n", notes)


def _quoted(word: str) -> str:
    """One word as systemd reads it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{_percent(escaped)}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")
