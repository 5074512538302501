"""How a part says what it does and what it found: one JSON line each, on a pipe of its own.

`{"at": "..."}` names what is about to be done, so that a crash or a hang says where;
`{"row": {...}}` is something found, kept as soon as it is said. Everything else that a part or MLX
prints goes to the error output, whose end is shown where the part fails.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[2]
SHOWN_LINES, SHOWN_CHARACTERS, SHOWN_FRAMES = 12, 1500, 6


class Teller:
    """A part's mouth. `folder` is where texts of kernels that fail are left."""

    def __init__(self, out: TextIO, folder: Path):
        self._out, self.folder = out, folder

    def at(self, what: str) -> None:
        """Say what is about to be done."""
        self._say({"at": what})

    def row(self, kind: str, **values: Any) -> None:
        """Keep something that was found."""
        self._say({"row": {"kind": kind, **values}})

    def tried(self, what: str, action: Callable[[], None]) -> bool:
        """Do one thing of several; where it fails a row says so, and the part goes on."""
        self.at(what)
        try:
            action()
        except Exception as error:
            self.row("failed", what=what, message=short(error))
            return False
        return True

    def _say(self, value: dict[str, Any]) -> None:
        print(json.dumps(value), file=self._out, flush=True)


def on_standard_output(folder: Path) -> Teller:
    """A teller on this process's output, which from now on belongs to it alone."""
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return Teller(own, folder)


def short(error: Exception) -> str:
    """The first lines of a message; compilers write pages."""
    text = f"{type(error).__name__}: {error}".strip()
    return "\n".join(text.splitlines()[:SHOWN_LINES])[:SHOWN_CHARACTERS]


def placed(error: Exception) -> str:
    """`short`, with the lines of ours that led there."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
        for frame in frames
        if Path(frame.filename).is_relative_to(ROOT)
    ]
    return "\n".join([short(error), *(f"  in {place}" for place in ours[-SHOWN_FRAMES:])])
