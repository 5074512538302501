"""What one worker does of every step: the gradient of its rows, the update of its parameters.

All workers see the same memory: the masters, the weights that they round to, and a place for each
worker's gradient. Between the parts of a step they wait for each other (`Exchange`), and whatever
is added up is added in the order of the workers, so that their number decides every bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, cast

import mlx.core as mx
import numpy as np

from dsv4_mlx.training.exchange import Exchange
from dsv4_mlx.training.objective import NanoObjective
from dsv4_mlx.training.shared_arrays import SharedArrays
from dsv4_mlx.training.trainer import Trainer

MASTERS, WEIGHTS, GRADIENTS = range(3)
"""Slots of the shared arrays; gradients have one for each worker from there on."""

_ELEMENT = 1000  # what AdamW does to a number takes as long as so many operations of a product


def slots(workers: int) -> int:
    """How many slots the shared arrays of so many workers have."""
    return GRADIENTS + workers


class StepPart:
    """One worker's part in the steps of a trainer; every worker calls the same at the same time."""

    def __init__(
        self, trainer: Trainer, objective: NanoObjective, arrays: SharedArrays, exchange: Exchange
    ):
        self.exchange = exchange
        self.cpu_seconds = 0.0
        """What all workers together have used since they started."""
        self._trainer, self._objective, self._arrays = trainer, objective, arrays
        owners = owners_of(step_costs(trainer), exchange.count)
        self._owned = [name for name, owner in owners.items() if owner == exchange.rank]
        self._foreign = [name for name, owner in owners.items() if owner != exchange.rank]

    def __call__(self, rows: Any) -> tuple[float, dict[str, mx.array]]:
        """One update by a batch of which this worker has `rows`: the batch's loss and extras."""
        trainer, arrays, exchange = self._trainer, self._arrays, self.exchange
        self._objective.summed = exchange.summed
        try:
            weights = arrays.read(WEIGHTS, trainer.parameters)
            loss, extras, gradients = trainer.gradients(weights, rows)
        finally:
            self._objective.summed = None
        arrays.write(GRADIENTS + exchange.rank, gradients)
        scalars = [name for name, value in extras.items() if value.ndim == 0]
        parts = exchange.summed([loss, *(float(np.array(extras[name])) for name in scalars)])
        extras |= {name: mx.array(float(v)) for name, v in zip(scalars, parts[1:], strict=True)}
        self._update()
        return float(parts[0]), extras

    def _update(self) -> None:
        trainer, arrays, exchange = self._trainer, self._arrays, self.exchange
        every = range(GRADIENTS, GRADIENTS + exchange.count)
        gradients = arrays.added(every, self._owned)
        own = [cast(float, mx.square(one).sum().item()) for one in gradients.values()]
        norm = float(np.sqrt(exchange.summed([sum(own)])[0]))
        factor = min(1.0, trainer.clip / max(norm, 1e-12))
        trainer.apply({name: one * factor for name, one in gradients.items()})
        self.show(self._owned)
        self.cpu_seconds = float(exchange.summed([time.process_time()])[0])
        if exchange.rank == 0:
            trainer.parameters |= arrays.read(MASTERS, self._foreign)

    def show(self, names: Iterable[str]) -> None:
        """Write this worker's parameters, and what they round to, where all read them."""
        masters = {name: self._trainer.parameters[name] for name in names}
        rounded = self._trainer.rounded(masters)
        mx.eval(masters, rounded)
        self._arrays.write(MASTERS, masters)
        self._arrays.write(WEIGHTS, rounded)

    def show_moments(self) -> None:
        """Write what this worker's optimizers keep, in the place of gradients, and wait."""
        self._write_moments(self._owned)
        self.exchange.summed([])

    def take_moments(self) -> None:
        """Read what the others showed."""
        self._read_moments(self._foreign)

    def give(self) -> None:
        """The first worker's: show the others where training stands, and wait until they know."""
        self.show(self._trainer.parameters)
        self._write_moments(self._trainer.parameters)
        self.exchange.summed([])
        self.exchange.summed([])

    def take(self, steps: int, adamw_steps: int) -> None:
        """What the others do meanwhile."""
        trainer = self._trainer
        self.exchange.summed([])
        trainer.parameters |= self._arrays.read(MASTERS, self._owned)
        trainer.steps, trainer.adamw.steps = steps, adamw_steps
        if steps:
            self._read_moments(self._owned)
        self.exchange.summed([])

    def _write_moments(self, names: Iterable[str]) -> None:
        for name in names:
            for slot, (state, key) in enumerate(self._trainer.moments(name), GRADIENTS):
                if key in state:
                    self._arrays.write(slot, {name: state[key]})

    def _read_moments(self, names: Iterable[str]) -> None:
        for name in names:
            for slot, (state, key) in enumerate(self._trainer.moments(name), GRADIENTS):
                state[key] = self._arrays.read(slot, [name])[name]


def step_costs(trainer: Trainer) -> dict[str, float]:
    """About how long the update of each parameter takes, in operations of a product."""
    costs = {}
    for name, value in trainer.parameters.items():
        costs[name] = float(_ELEMENT * value.size)
        if trainer.takes_muon(name, value):
            count, *sizes = trainer.muon.matrices(name, value).shape
            small, large = sorted(sizes)
            costs[name] += 20.0 * count * small * small * (2 * large + small)
    return costs


def owners_of(costs: Mapping[str, float], workers: int) -> dict[str, int]:
    """Who updates each parameter: the dearest first, each to who has least to do so far."""
    busy = [0.0] * workers
    owners = {}
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        owner = busy.index(min(busy))
        owners[name] = owner
        busy[owner] += costs[name]
    return {name: owners[name] for name in costs}
