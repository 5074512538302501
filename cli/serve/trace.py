"""What `--trace` writes: every request as it came, for its owner's eyes, and what became of it.

A line is a JSON object: `{"number", "path", "body"}` when a request comes and `{"number", "end"}`
with the figures of its record when it is over. `--warm` reads the beginnings of such requests.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cli.safe import json_line
from cli.serve.records import RequestRecord
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import DocumentError, parse_object

_MOST_LINE: Final = 64 << 20


class Trace:
    """A file that grows by a line for each request and one for each end; only its owner reads it.

    UsageError for a file that cannot be written. One that takes no more later, as on a disk that is
    full, is left, and `note` is told: no request is worth less for it.
    """

    def __init__(self, path: Path, note: Callable[[str], None] = lambda sentence: None) -> None:
        self._path, self._note, self._is_left = path, note, False
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o600)
            if stat.S_ISREG(os.fstat(self._file).st_mode):  # one that was there and others read
                os.fchmod(self._file, 0o600)
        except OSError as error:
            raise UsageError(f"--trace {path}: {error.strerror}.") from error

    def request(self, number: int, path: str, body: Mapping[str, Any]) -> None:
        """A request came."""
        self._write({"number": number, "path": path, "body": body})

    def end(self, record: RequestRecord) -> None:
        """It is over."""
        figures = {key: value for key, value in asdict(record).items() if key != "owner"}
        self._write({"number": record.number, "end": figures})

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._file)

    def _write(self, line: dict[str, Any]) -> None:
        if self._is_left:
            return
        content = json_line(line).encode("utf-8", "replace")
        try:
            while content:
                content = content[os.write(self._file, content) :]
        except OSError as error:
            self._is_left = True
            self._note(f"--trace {self._path}: {error.strerror}; nothing more is written to it")


def traced_requests(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and body of each request in a trace, but of lines that were not written to their end;
    UsageError for a file that is none."""
    is_trace = False
    try:
        with open(path, "rb") as file:
            while line := file.readline(_MOST_LINE):
                try:
                    found = parse_object(line)
                except DocumentError:
                    if not is_trace:
                        raise
                    continue
                is_trace = True
                if isinstance(found.get("body"), dict) and isinstance(found.get("path"), str):
                    yield found["path"], found["body"]
    except OSError as error:
        raise UsageError(f"--warm {path}: {error.strerror}.") from error
    except DocumentError as error:
        raise UsageError(f"--warm {path} {error}; give a file that --trace wrote.") from error
