"""What a person is told of what fails in a rank, and where its trace is kept.

A rank's own stderr is no person's: the terminal reads it, over ssh as well, and keeps the traces in
it in a file of their own.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import IO

from cli.kept.private_files import NoHome, new_file, private_folder, state_home
from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.files.file_systems import FileSystem

_LOG = logging.getLogger("dsv4_mlx.ranks")
_BEGINNING = "Traceback "


def sentence_of(error: BaseException) -> str:
    """Of what was foreseen its own sentence, of a mistake of ours what Python calls it."""
    if isinstance(error, Dsv4Error):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror}."
    return f"{type(error).__name__}: {error}".rstrip(".") + "; start both ranks again."


def log_to_stderr() -> None:
    """Let traces of this process go to its stderr."""
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("dsv4_mlx")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def log(error: BaseException) -> None:
    """Keep the trace of a mistake of ours; on no one's terminal."""
    _LOG.info("a mistake", exc_info=error)


class TraceFile:
    """Keeps the lines of stderr from a trace on, those of one run of the program."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._lock = Lock()

    def reader(self) -> Callable[[str], None]:
        """What takes the lines of one process, one after the other."""
        is_trace = False

        def take(line: str) -> None:
            nonlocal is_trace
            is_trace = is_trace or line.startswith(_BEGINNING)
            if is_trace:
                with self._lock, suppress(OSError):  # a full disk is told elsewhere
                    self._written().write(f"{line}\n")

        return take

    def _written(self) -> IO[str]:
        if self._file is None:
            private_folder(self._path.parent, FileSystem())
            self._path.unlink(missing_ok=True)  # of an earlier run
            descriptor = new_file(self._path, os.O_WRONLY)
            self._file = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")
        return self._file


def trace_file(variables: Mapping[str, str]) -> TraceFile | None:
    """`ranks.log` among what a person keeps; None where there is no such place."""
    try:
        return TraceFile(state_home(variables) / "ranks.log")
    except NoHome:
        return None
