"""The training loop: masters, two optimizers, a schedule, checkpoints to continue from.

The loop knows no model: an `objective` takes parameters and a batch and returns the loss with a
dictionary of what else is worth knowing. `nano` has the one for V4.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.documents import parse_object
from dsv4_mlx.files.safetensors_files import read_metadata
from dsv4_mlx.training.muon import AdamW, Muon, Parameters

Objective = Callable[[Parameters, Any], tuple[mx.array, dict[str, mx.array]]]


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: linear warm-up, a plateau, then a cosine to `final` of the peak."""

    steps: int
    peak: float
    warmup: int = 20
    plateau: float = 0.5  # share of all steps after which the rate falls
    final: float = 0.05

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        fall = (step - self.plateau * self.steps) / max(1.0, (1 - self.plateau) * self.steps)
        if fall <= 0:
            return self.peak
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))
        return self.peak * (self.final + (1 - self.final) * cosine)


def uses_muon(name: str, parameter: mx.array) -> bool:
    """Matrices go to Muon; embedding, head, Engram's tables, norms, biases, gates and sinks to
    AdamW."""
    table = name.endswith(
        (
            "embed_tokens.weight",
            "lm_head.weight",
            "position_bias",
            "engram.table.weight",
            "engram.q_weight",
            "engram.k_weight",
        )
    )
    return parameter.ndim >= 2 and not table


class Trainer:
    """Float32 masters and what is needed to move them; `step` is one update."""

    def __init__(
        self,
        parameters: Parameters,
        objective: Objective,
        schedule: Schedule,
        *,
        matrices: Callable[[str, mx.array], mx.array],
        rounded: Callable[[Parameters], Parameters] = dict,
        clip: float = 1.0,
        takes_muon: Callable[[str, mx.array], bool] = uses_muon,
    ):
        self.parameters = parameters
        self.buffers: Parameters = {}  # saved along, moved by the caller
        self.schedule = schedule
        self.muon = Muon(matrices)
        self.adamw = AdamW()
        self.steps = 0
        self.rounded = rounded
        self.clip = clip
        self.takes_muon = takes_muon
        self._gradient = mx.value_and_grad(objective)

    def step(self, batch: Any) -> tuple[float, dict[str, mx.array]]:
        """One update from one batch; returns the loss before it and the objective's extras."""
        loss, extras, gradients = self.gradients(self.rounded(self.parameters), batch)
        self.apply(clipped(gradients, self.clip))
        return loss, extras

    def gradients(
        self, weights: Parameters, batch: Any
    ) -> tuple[float, dict[str, mx.array], Parameters]:
        """Loss, extras and gradients at `weights`, evaluated."""
        (loss, extras), gradients = self._gradient(weights, batch)
        mx.eval(loss, extras, gradients)  # the graph of the backward pass ends here
        return cast(float, loss.item()), extras, gradients

    def apply(self, gradients: Parameters) -> None:
        """One update of the parameters that `gradients` names."""
        lr = self.schedule.rate(self.steps)
        matrices = {name: g for name, g in gradients.items() if self.takes_muon(name, g)}
        others = {name: g for name, g in gradients.items() if name not in matrices}
        updated = self.muon.update(self.parameters, matrices, lr)
        updated |= self.adamw.update(self.parameters, others, lr)
        self.parameters |= updated
        mx.eval(self.parameters, self.muon.state, self.adamw.state)
        self.steps += 1

    def moments(self, name: str) -> list[tuple[Parameters, str]]:
        """Where the optimizer of a parameter keeps what: its state, and the name there, one or two;
        a state that has seen no step has none yet."""
        if self.takes_muon(name, self.parameters[name]):
            return [(self.muon.state, name)]
        return [(self.adamw.state, f"{name}.{kept}") for kept in ("mean", "square")]

    def close(self) -> None:
        """End what works for this trainer beside it: nothing, where it trains alone."""

    def save(self, path: Path) -> None:
        """Everything needed to continue, in one file that is whole or absent."""
        arrays = {f"parameters/{name}": value for name, value in self.parameters.items()}
        arrays |= {f"buffers/{name}": value for name, value in self.buffers.items()}
        arrays |= {f"muon/{name}": value for name, value in self.muon.state.items()}
        arrays |= {f"adamw/{name}": value for name, value in self.adamw.state.items()}
        temporary = path.with_name("partial-" + path.name)
        state = {"steps": self.steps, "adamw_steps": self.adamw.steps}
        mx.save_safetensors(str(temporary), arrays, {"trainer": json.dumps(state)})
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Continue from `save`; CheckpointError when the file belongs to another model."""
        arrays, metadata = cast(
            tuple[Parameters, dict[str, str]], mx.load(str(path), return_metadata=True)
        )
        groups: dict[str, Parameters] = {
            group: {} for group in ("parameters", "buffers", "muon", "adamw")
        }
        for name, value in arrays.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = value
        if _shapes(groups["parameters"]) != _shapes(self.parameters):
            raise CheckpointError(
                f"{path.name} holds another model's training state; "
                "remove it to start again, or train the model it was made with."
            )
        state = parse_object(metadata["trainer"])
        # In the order of before: gradients are summed in it, and sums depend on their order.
        self.parameters = {name: groups["parameters"][name] for name in self.parameters}
        self.buffers = groups["buffers"]
        self.muon.state, self.adamw.state = groups["muon"], groups["adamw"]
        self.steps, self.adamw.steps = state["steps"], state["adamw_steps"]

    @staticmethod
    def saved_steps(path: Path) -> int:
        """How many steps the trainer had made that `save` wrote to `path`."""
        return int(parse_object(read_metadata(path)["trainer"])["steps"])


def clipped(gradients: Parameters, limit: float) -> Parameters:
    """The gradients with their joint norm brought down to `limit`."""
    norm = mx.sqrt(sum((mx.square(g).sum() for g in gradients.values()), mx.array(0.0)))
    factor = mx.minimum(1.0, limit / mx.maximum(norm, 1e-12))
    return {name: g * factor for name, g in gradients.items()}


def _shapes(parameters: Mapping[str, mx.array]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in parameters.items()}
