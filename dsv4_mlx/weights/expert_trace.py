"""Which experts tokens chose, as a file: what a cache of experts would have found can be replayed.

CSV with a header: `layer`, `token` (counted by layer from 0 on, in the order they were read),
`together` (tokens of the call; 1 while a reply is written, more for a prompt) and `experts`, the
numbers in the router's order, a space between them.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dsv4_mlx.errors import CheckpointError, UsageError

COLUMNS = ("layer", "token", "together", "experts")


class TraceWriter:
    """Writes every choice it is called with; UsageError where the file cannot be begun."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: dict[int, int] = {}
        try:
            self._file = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise UsageError(
                f"expected to write a trace of experts to {path} but found {error.strerror}; name "
                "another file."
            ) from error
        self._write(",".join(COLUMNS))

    def __call__(self, layer: int, ids: npt.NDArray[Any]) -> None:
        """A call of `layer` chose the experts `ids` [M, k]."""
        first = self._seen.get(layer, 0)
        self._seen[layer] = first + len(ids)
        for token, experts in enumerate(ids.tolist(), first):
            self._write(f"{layer},{token},{len(ids)},{' '.join(map(str, experts))}")
        self._file.flush()  # a program may end at any time

    def close(self) -> None:
        """Write the last lines and close the file."""
        self._file.close()

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")


def trace_experts(model: Any, path: Path) -> None:
    """Write to a file which experts the tokens of a loaded model choose from now on.

    UsageError where all experts are in memory, and for a file that cannot be written.
    """
    if (streamed := getattr(model, "streamed", None)) is None:
        raise UsageError(
            "expected a model whose experts are read from files but found all of them in memory; "
            "give --expert-memory SIZE with --expert-trace."
        )
    streamed.facts.trace = TraceWriter(path)


@dataclass(frozen=True)
class Choice:
    """One token's experts in one layer."""

    layer: int
    token: int
    together: int
    experts: tuple[int, ...]

    @property
    def is_generated(self) -> bool:
        """Whether the token was read alone, as those of a reply are."""
        return self.together == 1


def read_trace(path: Path) -> Iterator[Choice]:
    """The choices of a file in their order; CheckpointError for one that is no trace."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != COLUMNS:
            raise CheckpointError(
                f"{path} is no trace of experts: expected the columns {', '.join(COLUMNS)}; write "
                "one with dsv4-chat --expert-trace FILE."
            )
        for row in rows:
            try:
                layer, token, together, experts = row
                numbers = tuple(map(int, experts.split()))
                yield Choice(int(layer), int(token), int(together), numbers)
            except ValueError:
                raise CheckpointError(
                    f"{path}: line {rows.line_num} is no choice of experts ({','.join(row)!r}); "
                    "trace again."
                ) from None
