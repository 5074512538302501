"""One run: train an arm from a seed, measure it, and write its row."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.ablations import lab_data
from benchmarks.ablations.arms import Arm, counted, plain
from benchmarks.ablations.lab_data import Asked
from benchmarks.record import earlier, record
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.training.induction import add_induction
from dsv4_mlx.training.losses import corrected_bias
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.nano_recipe import matrices
from dsv4_mlx.training.objective import NanoObjective
from dsv4_mlx.training.runs import StepListener, TrainingRun
from dsv4_mlx.training.trainer import Schedule, Trainer

MEASURED = (
    "text_loss", "fact_recall", "needle_recall", "near_recall", "csa_recall", "hca_recall",
)  # fmt: skip
"""Loss in nats, and shares; `needle_recall` is of all pairs beyond the window."""
SWITCHED = ("needle_recall_without_csa", "needle_recall_without_hca")
FIELDS = (
    "arm", "seed", "design", "steps", "tokens", "parameters", "active_parameters", *MEASURED,
    *SWITCHED, "cpu_s",
)  # fmt: skip
CURVE_FIELDS = ("arm", "seed", "design", "step", *MEASURED)
_UNTRAINED = ("tid2eid", "e_score_correction_bias")
_ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class Plan:
    """What all runs of a comparison share."""

    steps: int = 700
    rows: int = 4
    length: int = 256
    measured_rows: int = 24
    needle_rows: int = 48
    every: int = 50
    """Steps between measurements."""

    @property
    def alone(self) -> int:
        """Steps at the beginning whose rows are needles alone, until recall has begun."""
        return self.steps * 2 // 5

    def settings(self, arm: Arm, seed: int) -> dict[str, Any]:
        """All that a run depends on, as JSON values."""
        return {
            **asdict(self),
            "alone": self.alone,
            "arm": arm.name,
            "seed": seed,
            "config": keys_of(arm.config),
            "peak": arm.peak,
            "only_adamw": arm.only_adamw,
            "plain_residuals": arm.plain_residuals,
            **({"selects": True} if arm.selects else {}),
        }

    def design(self, arm: Arm) -> str:
        """Eight digits that rows with the same settings share, whatever their seed."""
        text = json.dumps(self.settings(arm, 0), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


class Lab:
    """The model of one arm and seed with its trainer."""

    def __init__(self, arm: Arm, seed: int, plan: Plan):
        self.arm, self.seed, self.plan = arm, seed, plan
        parameters = initial_parameters(arm.config, seed)
        add_induction(arm.config, parameters)
        fixed = {name: parameters[name] for name in parameters if name.endswith(_UNTRAINED)}
        if arm.plain_residuals:
            fixed |= plain(parameters)
        trained = {name: value for name, value in parameters.items() if name not in fixed}
        self.objective = NanoObjective(arm.config, fixed)
        self.trainer = Trainer(
            trained,
            self.objective,
            Schedule(plan.steps, arm.peak),
            matrices=matrices(arm.config),
            takes_muon=arm.takes_muon,
        )
        self.trainer.buffers = {name: fixed[name] for name in self.objective.routers}
        self.sizes = counted(arm.config, trained)

    def step(self, number: int) -> dict[str, float]:
        """Make step `number` (from 0); its figures, with measurements where they are due."""
        started = time.process_time()
        plan, trainer = self.plan, self.trainer
        self.objective.put(trainer.buffers)
        if self.arm.selects:
            self.objective.set_indexing("dense" if number < plan.steps // 2 else "sparse")
        alone = number < plan.alone
        made = lab_data.batch(self.seed, number, plan.rows, plan.length, alone=alone)
        loss, extras = trainer.step(made)
        for name in self.objective.routers:
            trainer.buffers[name] = corrected_bias(trainer.buffers[name], extras[name])
        figures = {"loss": loss, "cpu_s": time.process_time() - started}
        if trainer.steps % plan.every == 0 or trainer.steps == plan.steps:
            figures |= self.measured()
        return figures

    def measured(self) -> dict[str, float]:
        """Next-token loss in nats on held-out text, and the shares of answers that come out."""
        plan = self.plan
        self.objective.put(self.trainer.buffers | self.trainer.parameters)
        text = lab_data.held_out_text(plan.measured_rows, plan.length)
        facts = self._right(lab_data.held_out_facts(self.seed, plan.length))
        needles = self._right(self._needles())
        return {
            "text_loss": self._loss(text),
            "fact_recall": _share(facts["facts"]),
            "needle_recall": _share(needles["csa"] + needles["hca"]),
            **{f"{name}_recall": _share(right) for name, right in needles.items()},
        }

    def switched(self) -> dict[str, float]:
        """`needle_recall` where layers of one kind see their window alone."""
        self.objective.put(self.trainer.buffers | self.trainer.parameters)
        shares = {}
        for name, selects in zip(SWITCHED, (True, False), strict=True):
            with without_entries(self.objective.model, selects):
                needles = self._right(self._needles())
            shares[name] = _share(needles["csa"] + needles["hca"])
        return shares

    def _needles(self) -> Asked:
        plan, config = self.plan, self.arm.config
        ratio = max(config.compress_ratios)
        rows = plan.needle_rows
        return lab_data.held_out_needles(rows, plan.length, config.sliding_window, ratio)

    def _loss(self, tokens: np.ndarray) -> float:
        total = 0.0
        for logits, targets in self._predictions(tokens):
            chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
            total += float((_log_sum(logits) - chosen).sum())
        return total / tokens[:, 1:].size

    def _right(self, asked: Asked) -> dict[str, list[bool]]:
        """Of every answer of every group whether it comes out."""
        guesses = np.concatenate([one.argmax(-1) for one, _ in self._predictions(asked.tokens)])
        right = guesses == asked.tokens[:, 1:]
        return {
            name: [bool(right[row, place - 1]) for row, place in places]
            for name, places in asked.answers.items()
        }

    def _predictions(self, tokens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Logits [b, S, V] and the tokens [b, S] they are about, some rows at a time."""
        model = self.objective.model
        for start in range(0, len(tokens), _ROWS_AT_ONCE):
            part = tokens[start : start + _ROWS_AT_ONCE]
            logits = model.logits(model.streams(mx.array(part[:, :-1])))
            yield np.array(logits.astype(mx.float32)), part[:, 1:]


def run(
    folder: Path,
    arm: Arm,
    seed: int,
    plan: Plan,
    command: str,
    progress: StepListener | None = None,
) -> bool:
    """Train in FOLDER from where a run stopped, then record; False where a signal ended it."""
    lab = Lab(arm, seed, plan)
    with TrainingRun(folder, plan.settings(arm, seed)) as kept:
        done = kept.go_on(
            lab.trainer,
            plan.steps,
            lab.step,
            save_every=plan.every,
            log_every=plan.every,
            progress=progress,
        )
        record_curve(kept.curve(), lab, command)
        if done:
            _record(kept.curve(), lab, command)
    return done


def record_curve(curve: list[dict[str, float]], lab: Lab, command: str) -> None:
    """Add the measurements that the table of curves lacks: a stopped run shows how far it came."""
    common = {"arm": lab.arm.name, "seed": lab.seed, "design": lab.plan.design(lab.arm)}
    points = [common | {"step": int(row["step"])} | _rounded(row, MEASURED) for row in curve]
    known = {_key(row, "step") for row in earlier("ablation_curves")}
    fresh = [row for row in points if _key(row, "step") not in known]
    if fresh:
        record("ablation_curves", command, fresh, CURVE_FIELDS)


def _record(curve: list[dict[str, float]], lab: Lab, command: str) -> None:
    plan, (total, active) = lab.plan, lab.sizes
    row = {
        "arm": lab.arm.name,
        "seed": lab.seed,
        "design": plan.design(lab.arm),
        "steps": plan.steps,
        "tokens": plan.steps * plan.rows * plan.length,
        "parameters": total,
        "active_parameters": active,
        **_rounded(curve[-1] | lab.switched(), MEASURED + SWITCHED),
        "cpu_s": round(plan.every * sum(row["cpu_s"] for row in curve)),
    }
    record("ablations", command, [row], FIELDS)


def _rounded(row: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    return {name: round(row[name], 4) for name in names}


def _key(row: Mapping[str, Any], *more: str) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("arm", "seed", "design", *more))


def finished(arm: Arm, seed: int, plan: Plan) -> bool:
    """Whether the table has a row of this run."""
    wanted = {"arm": arm.name, "seed": seed, "design": plan.design(arm)}
    return _key(wanted) in {_key(row) for row in earlier("ablations")}


@contextmanager
def without_entries(model: Model, selects: bool) -> Iterator[None]:
    """Within, layers that select (CSA), or those that see all (HCA), have no entries."""
    changed = [
        (layer.self_attn, layer.self_attn.compressor)
        for layer in model.layers
        if layer.self_attn.compressor is not None
        and (layer.self_attn.compressor.indexer is not None) == selects
    ]
    for attention, _ in changed:
        attention.compressor = None
    try:
        yield
    finally:
        for attention, compressor in changed:
            attention.compressor = compressor


def _share(right: list[bool]) -> float:
    return float(np.mean(right)) if right else math.nan


def _log_sum(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=-1)
    return top + np.log(np.exp(logits - top[..., None]).sum(axis=-1))
