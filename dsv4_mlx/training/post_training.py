"""The stages of post-training as runs: SFT of an expert, its GRPO, distillation into one model.

Each goes on where it stopped, bit for bit: what a step draws follows from the seed and its number,
and the state that is kept is the trainer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from dsv4_mlx.errors import UsageError
from dsv4_mlx.training.data.batches import batch
from dsv4_mlx.training.distillation import DistillationObjective, taught
from dsv4_mlx.training.grpo import GrpoBatch, GrpoObjective, chosen_answers, group_advantages
from dsv4_mlx.training.losses import corrected_bias
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.rollouts import as_batch
from dsv4_mlx.training.runs import StepFigures
from dsv4_mlx.training.scores import Scores
from dsv4_mlx.training.stage import DOMAINS, EXPERTS, Stage
from dsv4_mlx.training.stage_run import (
    StageRecipe,
    ToldLine,
    kinds_of,
    lesson_kinds,
    run_stage,
    settings_of,
    step_seed,
)
from dsv4_mlx.training.starting_point import StartingPoint
from dsv4_mlx.training.workers import require_rows


@dataclass(frozen=True)
class SftRecipe(StageRecipe):
    """An expert by lessons of its kinds: the base's objective, `rows` of `length` tokens a step.

    `expert` may be kinds as well, or all of them: the base itself then goes on (`lesson_kinds`).
    """

    peak: float = 1e-3
    expert: str = "arithmetic"
    rows: int = 4
    length: int = 256


@dataclass(frozen=True)
class GrpoRecipe(StageRecipe):
    """GRPO of one expert."""

    expert: str = "arithmetic"
    prompts: int = 4
    group: int = 8
    updates: int = 1
    """Updates from one batch of answers; the ratio is clipped from the second on."""
    low: float = 0.2
    high: float = 0.2
    kl_weight: float = 0.02


@dataclass(frozen=True)
class DistillationRecipe(StageRecipe):
    """Distillation of all experts; `prompts` of each domain, an answer each."""

    prompts: int = 16


def sft(
    folder: Path,
    start: Path,
    recipe: SftRecipe,
    *,
    hours: float | None = None,
    workers: int = 1,
    report: ToldLine = print,
) -> bool:
    """Make an expert of a base by lessons; False where time or a signal ended it early.

    `workers` processes share each step.
    """
    kinds = lesson_kinds(recipe.expert)
    require_rows(workers, recipe.rows)
    point = StartingPoint.of(folder=start)
    schedule, limits = recipe.schedule(), recipe.limits
    stage = Stage(folder, point, lambda _, base: base, schedule, limits, workers=workers)
    return run_stage(
        stage,
        Scores(stage, kinds, recipe.score_prompts),
        recipe,
        settings_of("sft", recipe, start=point) | {"workers": workers},
        lambda step: sft_step(stage, recipe, step),
        columns=("nll",),
        hours=hours,
        report=report,
    )


def sft_step(stage: Stage, recipe: SftRecipe, step: int) -> StepFigures:
    """One update from a batch of lessons; the routers are balanced as in the base's training."""
    base, trainer = stage.base, stage.trainer
    base.put(trainer.buffers)
    lessons = batch(
        stage.start.tokenizer,
        step_seed(recipe.seed, 0),
        step,
        recipe.rows,
        recipe.length,
        lesson_kinds(recipe.expert),
    )
    loss, extras = trainer.step(lessons)
    for name in base.routers:
        trainer.buffers[name] = corrected_bias(trainer.buffers[name], extras[name])
    mx.eval(trainer.buffers)
    figures = {name: float(np.array(extras[name])) for name in ("nll", "mtp")}
    return {"loss": loss, **figures, "tokens": float(lessons.tokens.size)}


def grpo(
    folder: Path,
    start: Path,
    recipe: GrpoRecipe,
    *,
    hours: float | None = None,
    report: ToldLine = print,
) -> bool:
    """Train one expert further by its rewards; False where time or a signal ended it early.

    The reference of the KL is the model it starts from.
    """
    kinds = kinds_of(recipe.expert)
    if recipe.steps % recipe.updates or recipe.save_every % recipe.updates:
        raise UsageError(
            f"expected steps {recipe.steps} and save_every {recipe.save_every} to be multiples of "
            f"updates {recipe.updates} but they are not; a run is kept between batches of answers."
        )
    point = StartingPoint.of(folder=start)
    stage = Stage(
        folder,
        point,
        lambda policy, _: GrpoObjective(policy, recipe.low, recipe.high, recipe.kl_weight),
        recipe.schedule(),
        recipe.limits,
    )
    reference = stage.rounded(point.trained)
    return run_stage(
        stage,
        Scores(stage, kinds, recipe.score_prompts),
        recipe,
        settings_of("grpo", recipe, start=point),
        lambda step: grpo_step(stage, recipe, reference, step),
        columns=("reward", "right", "kl"),
        hours=hours,
        report=report,
    )


def grpo_step(stage: Stage, recipe: GrpoRecipe, reference: Parameters, step: int) -> StepFigures:
    """A batch of groups and the updates from it; rewards are those of before the update."""
    seed = step_seed(recipe.seed, step)
    asked = stage.drawn_tasks(EXPERTS[recipe.expert], "train", seed, recipe.prompts)
    stage.put()
    groups = stage.answers(asked, group=recipe.group, seed=seed)
    verdicts = stage.judged(asked, groups)
    rewards = np.array([[one.reward for one in group] for group in verdicts])
    advantages = group_advantages(rewards)
    answers, per_token, tokens = chosen_answers(groups, advantages)
    update = GrpoBatch(answers, per_token, stage.policy.logits(reference, answers), tokens)
    done = [stage.trainer.step(update) for _ in range(recipe.updates)]
    every = [one for group in verdicts for one in group]
    loss, extras = done[-1]
    return {
        "loss": loss,
        "reward": float(rewards.mean()),
        "right": float(np.mean([one.is_right for one in every])),
        "well_formed": float(np.mean([one.is_well_formed for one in every])),
        "spread": float((np.abs(advantages).max(axis=1) > 0).mean()),
        "length": tokens / rewards.size,
        **{name: float(np.array(value)) for name, value in extras.items()},
        "tokens": float(answers.tokens.size),
    }


def distill(
    folder: Path,
    start: Path,
    teachers: Mapping[str, Path],
    recipe: DistillationRecipe,
    *,
    hours: float | None = None,
    report: ToldLine = print,
) -> bool:
    """Make one model of the experts of all domains; False where it was ended early."""
    unknown = sorted(teachers.keys() - DOMAINS.keys())
    if unknown or not teachers:
        raise UsageError(
            f"The domains are {', '.join(DOMAINS)}, got {', '.join(unknown) or 'none'}; "
            "give a folder for each that is to teach."
        )
    point = StartingPoint.of(folder=start)
    points = {name: StartingPoint.of(folder=path) for name, path in teachers.items()}
    _require_one_vocabulary(point, points)
    stage = Stage(
        folder,
        point,
        lambda policy, _: DistillationObjective(policy),
        recipe.schedule(),
        recipe.limits,
    )
    weights = {name: stage.rounded(one.trained) | one.fixed for name, one in points.items()}
    kinds = [kind for name in teachers for kind in DOMAINS[name]]
    scores = Scores(stage, kinds, recipe.score_prompts)
    settings = settings_of("distill", recipe, start=point, **points)
    return run_stage(
        stage,
        scores,
        recipe,
        settings,
        lambda step: distillation_step(stage, recipe, weights, step),
        columns=tuple(f"kl_{name}" for name in teachers),
        teachers=weights,
        hours=hours,
        report=report,
    )


def distillation_step(
    stage: Stage, recipe: DistillationRecipe, teachers: Mapping[str, Parameters], step: int
) -> StepFigures:
    """Answers of the student to prompts of every domain, and one update towards the teachers."""
    seed = step_seed(recipe.seed, step)
    asked = [
        task
        for name in teachers
        for task in stage.drawn_tasks(DOMAINS[name], "train", seed, recipe.prompts)
    ]
    stage.put()
    groups = stage.answers(asked, group=1, seed=seed)
    verdicts = stage.judged(asked, groups)
    answers = as_batch([group[0] for group in groups])
    given = [(weights, recipe.prompts) for weights in teachers.values()]
    loss, extras = stage.trainer.step(taught(stage.policy, answers, given))
    kl, domain = np.array(extras["kl"]), answers.rows // recipe.prompts
    right = np.array([group[0].is_right for group in verdicts], float)
    figures = {"loss": loss, "kl": float(kl.mean())}
    for number, name in enumerate(teachers):
        figures[f"kl_{name}"] = float(kl[domain == number].mean())
        own = right[number * recipe.prompts : (number + 1) * recipe.prompts]
        figures[f"right_{name}"] = float(own.mean())
    return {
        **figures,
        "length": len(answers.places) / len(asked),
        "entropy": float(np.array(extras["entropy"])),
        "own": float(np.array(extras["own"])),
        "tokens": float(answers.tokens.size),
    }


def _require_one_vocabulary(point: StartingPoint, teachers: Mapping[str, StartingPoint]) -> None:
    text = (point.folder / "tokenizer.json").read_bytes()
    for name, one in teachers.items():
        if one.config != point.config or (one.folder / "tokenizer.json").read_bytes() != text:
            raise UsageError(
                f"expected a teacher of {name} with the config and the vocabulary of the student "
                f"but {one.folder} has others; train it from the same base."
            )
