"""A trainer that shares its steps with other processes: rows of a batch, and parameters to update.

The first worker is the program itself; the others are `worker_process` with a BLAS of one thread
each. They begin with the first step and end with `close`, or with the program however it ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.errors import UsageError
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.training.attention import Indexing
from dsv4_mlx.training.exchange import FirstExchange
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.objective import NanoObjective, WeightedTokens
from dsv4_mlx.training.shared_arrays import SharedArrays
from dsv4_mlx.training.step_part import StepPart, slots
from dsv4_mlx.training.trainer import Objective, Schedule, Trainer


@dataclass(frozen=True)
class WorkerTask:
    """What a worker is told first: whose steps it shares, and which worker of how many it is."""

    rank: int
    count: int
    config: DeepseekV4Config
    schedule: Schedule
    recompute: bool
    fixed: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class StepRows:
    """What it is told of a step: its rows, and how the objective stands."""

    tokens: np.ndarray
    weights: np.ndarray
    indexing: Indexing
    mtp_weight: float
    buffers: dict[str, np.ndarray]

    def put_into(self, objective: NanoObjective) -> None:
        """Have the objective stand as in the first worker."""
        objective.put({name: mx.array(value) for name, value in self.buffers.items()})
        if objective.indexing != self.indexing:
            objective.set_indexing(self.indexing)
        objective.mtp_weight = self.mtp_weight


@dataclass(frozen=True)
class Standing:
    """How many steps were made before the next one, as the optimizers count them."""

    steps: int
    adamw_steps: int


SHOW_MOMENTS = "show moments"
"""What it is told before the run is kept."""


def require_rows(workers: int, rows: int) -> None:
    """UsageError unless each of the workers has a row of the smallest batch, which has `rows`."""
    if not 1 <= workers <= rows:
        raise UsageError(
            f"expected 1 to {rows} workers, the rows of the smallest batch, but found {workers}; "
            "each takes at least one row."
        )


class ParallelTrainer(Trainer):
    """A trainer of `workers` processes; a step is the same but for the order of sums."""

    def __init__(
        self,
        parameters: Parameters,
        objective: NanoObjective,
        schedule: Schedule,
        *,
        matrices: Callable[[str, mx.array], mx.array],
        rounded: Callable[[Parameters], Parameters],
        fixed: Parameters,
        workers: int,
        recompute: bool = False,
    ):
        super().__init__(parameters, objective, schedule, matrices=matrices, rounded=rounded)
        self.workers = workers
        self.processes: list[subprocess.Popen[bytes]] = []
        """The other workers' once a step was made."""
        self._objective, self._fixed, self._recompute = objective, fixed, recompute
        self._links: list[Connection] = []
        self._exchange: FirstExchange | None = None
        self._part: StepPart | None = None
        self._arrays: SharedArrays | None = None
        self._is_given = False

    @property
    def cpu_seconds(self) -> float:
        """What all workers have used since they began, up to the last step."""
        return self._part.cpu_seconds if self._part is not None else 0.0

    def step(self, batch: WeightedTokens) -> tuple[float, dict[str, mx.array]]:
        """One update by all workers, each with its rows; TrainingError where one is gone."""
        exchange, part = self._started()
        if not self._is_given:
            exchange.tell(Standing(self.steps, self.adamw.steps))
            part.give()
            self._is_given = True
        buffers = {name: np.array(value) for name, value in self.buffers.items()}
        blocks = [
            StepRows(tokens, weights, self._objective.indexing, self._objective.mtp_weight, buffers)
            for tokens, weights in zip(
                np.array_split(batch.tokens, self.workers),
                np.array_split(batch.weights, self.workers),
                strict=True,
            )
        ]
        for number, block in enumerate(blocks[1:]):
            exchange.send(number, block)
        return part(blocks[0])

    def save(self, path: Path) -> None:
        """As the trainer's, with what the other workers' optimizers keep."""
        if self._exchange is not None and self._part is not None and self._is_given:
            self._exchange.tell(SHOW_MOMENTS)
            self._part.show_moments()
            self._part.take_moments()
        super().save(path)

    def load(self, path: Path) -> None:
        """As the trainer's; the other workers go on from there too."""
        super().load(path)
        self._is_given = False

    def close(self) -> None:
        """End the other workers, whatever they are at."""
        for link in self._links:
            link.close()
        for process in self.processes:
            process.kill()
            with contextlib.suppress(OSError):
                process.communicate()
        if self._arrays is not None:
            self._arrays.close()
        self.processes, self._links = [], []
        self._exchange = self._part = self._arrays = None
        self._is_given = False

    def _started(self) -> tuple[FirstExchange, StepPart]:
        if self._exchange is not None and self._part is not None:
            return self._exchange, self._part
        shapes = {name: tuple(value.shape) for name, value in self.parameters.items()}
        self._arrays = SharedArrays(shapes, slots(self.workers))
        fixed = {name: np.array(value) for name, value in self._fixed.items()}
        given: Any = (self._objective.config, self.schedule, self._recompute, fixed, shapes)
        for _ in range(1, self.workers):
            link, theirs = Pipe()
            self._links.append(link)
            self.processes.append(_begun(theirs.fileno(), self._arrays.descriptor))
            theirs.close()
        self._exchange = FirstExchange(self._links, self.processes)
        for number in range(self.workers - 1):
            self._exchange.send(number, WorkerTask(number + 1, self.workers, *given))
        self._part = StepPart(self, self._objective, self._arrays, self._exchange)
        return self._exchange, self._part


def trainer_of(
    workers: int,
    parameters: Parameters,
    objective: Objective,
    schedule: Schedule,
    *,
    matrices: Callable[[str, mx.array], mx.array],
    rounded: Callable[[Parameters], Parameters],
    fixed: Parameters,
    recompute: bool = False,
) -> Trainer:
    """A trainer alone, or one of several `workers`, whose objective is nano's; `fixed` are the
    parameters that no gradient moves."""
    if workers == 1:
        return Trainer(parameters, objective, schedule, matrices=matrices, rounded=rounded)
    assert isinstance(objective, NanoObjective), "only its means are made over all workers"
    return ParallelTrainer(
        parameters,
        objective,
        schedule,
        matrices=matrices,
        rounded=rounded,
        fixed=fixed,
        workers=workers,
        recompute=recompute,
    )


def _begun(link: int, memory: int) -> subprocess.Popen[bytes]:
    """A worker's process; it ends when its input does, as it does with this program."""
    return subprocess.Popen(
        [sys.executable, "-m", "dsv4_mlx.training.worker_process", str(link), str(memory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=(link, memory),
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
