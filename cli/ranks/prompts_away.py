"""Prompts of a model on two machines while neither of its programs runs."""

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.serving.prompts import Prompts
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.said import SaidMemory
from dsv4_mlx.serving.said_log import FILE, recall

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer


class PromptsAway:
    """Counts their tokens as rank 0's program will once it runs again: it begins with what the file
    in `folder` knows of what was said, and with nothing where there is no folder. For any thread.
    """

    def __init__(
        self, tokenizer: "Tokenizer", effort_table: EffortTable, folder: Path | None
    ) -> None:
        self._tokenizer, self._effort_table = tokenizer, effort_table
        self._file = None if folder is None else folder / FILE
        self._lock = Lock()
        self._read: tuple[int, int] | None = None
        """When the file was changed, and its bytes, as it was read last."""
        self._prompts = self._with(SaidMemory())

    def count(self, request: GenerationRequest) -> int:
        """How many tokens the prompt of `request` has; ChatError for messages that none can be made
        of."""
        return self._up_to_date().count(request)

    def _up_to_date(self) -> Prompts:
        with self._lock:
            if self._file is not None and (there := _stamp(self._file)) != self._read:
                memory = SaidMemory()
                recall(self._file, memory)
                self._read, self._prompts = there, self._with(memory)
            return self._prompts

    def _with(self, memory: SaidMemory) -> Prompts:
        return Prompts(self._tokenizer, self._effort_table, memory)


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
