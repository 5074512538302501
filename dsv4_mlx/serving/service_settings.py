"""What a server's command line says of its service, as plain data: another process may make it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.serving.limits import ServingLimits, bytes_of_timelines
from dsv4_mlx.serving.service import Service
from dsv4_mlx.sizing.costs import Costs, Kv

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine


@dataclass(frozen=True)
class ServiceSettings:
    """How requests are served, whichever model it is; sizes in bytes."""

    kv: Kv = "compact"
    most_waiting: int = 256
    cache_budget: int | None = None
    """For what was read; None is half of the memory that there is for timelines."""
    folder: str | None = None
    """Where what was read and said outlives the program."""
    disk_bytes: int = 0

    def service(
        self,
        engine: "Engine",
        tokenizer: "Tokenizer",
        effort_table: EffortTable,
        memory_bytes: int,
    ) -> Service:
        """A service with so much memory for timelines; for the model's thread. OSError for a folder
        that cannot be used."""
        limits = ServingLimits(
            memory_bytes=memory_bytes,
            bytes_of=bytes_of_timelines(Costs(engine.config), self.kv),
            most_waiting=self.most_waiting,
        )
        budget = memory_bytes // 2 if self.cache_budget is None else self.cache_budget
        return Service(
            engine,
            tokenizer,
            effort_table,
            cache_bytes=min(budget, memory_bytes),
            limits=limits,
            folder=None if self.folder is None else Path(self.folder),
            disk_bytes=self.disk_bytes,
            clock=time.perf_counter,
        )
