"""argparse that raises instead of exiting and writes to the environment's streams."""

import argparse
from typing import IO, NoReturn

from cli.environment import Environment
from dsv4_mlx.errors import UsageError


class Helped(Exception):
    """--help was asked for and has been printed."""


class CommandParser(argparse.ArgumentParser):
    """The parser of one command, `prog`."""

    def __init__(
        self, environment: Environment, prog: str, usage: str, description: str, epilog: str
    ) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=26, width=80
            ),
        )
        self.color = False  # Python 3.14 would add escape codes to the help text
        self._environment = environment

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help lists the options).")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise Helped

    def print_help(self, file: IO[str] | None = None) -> None:  # type: ignore[override]
        self._environment.stdout.write(self.format_help())
