"""`python -m dsv4_mlx.training.worker_process LINK MEMORY`: a worker beside the first one.

`workers` starts it and passes two descriptors: a link to the first worker and the shared memory.
It does what it is told until its input ends, then it is gone at once. Ctrl-C and SIGTERM are the
first worker's to answer.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection

import mlx.core as mx

from dsv4_mlx.training.exchange import OthersExchange
from dsv4_mlx.training.nano_recipe import matrices
from dsv4_mlx.training.objective import NanoObjective
from dsv4_mlx.training.pages import keep_pages
from dsv4_mlx.training.shared_arrays import SharedArrays
from dsv4_mlx.training.step_part import StepPart, slots
from dsv4_mlx.training.stored_weights import rounded, stored_dtypes
from dsv4_mlx.training.trainer import Trainer
from dsv4_mlx.training.workers import SHOW_MOMENTS, Standing, StepRows, WorkerTask


def main() -> None:
    """Work until the program that started this one is done or gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_input, daemon=True).start()
    keep_pages()
    link, memory = Connection(int(sys.argv[1])), int(sys.argv[2])
    try:
        work(link, memory)
    except (EOFError, ConnectionError):
        pass  # the first worker is gone
    except BaseException as error:
        link.send(("failed", f"{type(error).__name__}: {error}".splitlines()[0]))


def work(link: Connection, memory: int) -> None:
    """Do what the first worker says, until it is gone: EOFError."""
    task: WorkerTask = link.recv()
    part, objective = _prepared(task, link, memory)
    while True:
        told = link.recv()
        if isinstance(told, StepRows):
            told.put_into(objective)
            part(told)
        elif isinstance(told, Standing):
            part.take(told.steps, told.adamw_steps)
        elif told == SHOW_MOMENTS:
            part.show_moments()


def _prepared(task: WorkerTask, link: Connection, memory: int) -> tuple[StepPart, NanoObjective]:
    fixed = {name: mx.array(value) for name, value in task.fixed.items()}
    objective = NanoObjective(task.config, fixed, recompute=task.recompute)
    dtypes = stored_dtypes(task.config)
    trainer = Trainer(
        {name: mx.zeros(shape) for name, shape in task.shapes.items()},
        objective,
        task.schedule,
        matrices=matrices(task.config),
        rounded=lambda masters: rounded(masters, dtypes),
    )
    arrays = SharedArrays(task.shapes, slots(task.count), memory)
    exchange = OthersExchange(task.rank, task.count, link)
    return StepPart(trainer, objective, arrays, exchange), objective


def _end_with_input() -> None:
    """The end of the input is the end of whoever started this, however it ended."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
