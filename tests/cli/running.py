"""Running `dsv4-chat` on string streams, with everything it wrote as the result."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.app import main
from cli.environment import Environment


class Stream(io.StringIO):
    """A text stream that can pass for a terminal."""

    def __init__(self, text: str = "", *, terminal: bool = False) -> None:
        super().__init__(text)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@dataclass(frozen=True)
class Run:
    """What one run left behind."""

    status: int
    stdout: str
    stderr: str


def run(
    *arguments: str | Path,
    typed: str | None = None,
    piped: str = "",
    terminal: bool = False,
    variables: dict[str, str] | None = None,
    open_model: Callable[..., Any] | None = None,
) -> Run:
    """`dsv4-chat arguments`: `typed` at a dumb terminal, else with `piped` on stdin; `terminal`
    says whether stdout and stderr are one."""
    environment = Environment(
        stdin=Stream(piped if typed is None else typed, terminal=typed is not None),
        stdout=Stream(terminal=terminal),
        stderr=Stream(terminal=terminal),
        variables={
            "TERM": "dumb" if typed is not None else "xterm",
            "DSV4_HOME": os.environ["DSV4_HOME"],
        }
        | (variables or {}),
    )
    status = main([str(a) for a in arguments], environment=environment, open_model=open_model)
    assert isinstance(environment.stdout, Stream)
    assert isinstance(environment.stderr, Stream)
    return Run(status, environment.stdout.getvalue(), environment.stderr.getvalue())
