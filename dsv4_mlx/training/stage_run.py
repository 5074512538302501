"""How a stage of post-training runs: scored, trained with scores in between, scored again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from dsv4_mlx.errors import UsageError
from dsv4_mlx.training.data.lessons import SHARES
from dsv4_mlx.training.data.task import Kind
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.progress import RunProgress
from dsv4_mlx.training.runs import StepFigures, TrainingRun
from dsv4_mlx.training.scores import Scores
from dsv4_mlx.training.stage import EXPERTS, AnswerLimits, Stage
from dsv4_mlx.training.starting_point import StartingPoint
from dsv4_mlx.training.trainer import Schedule

StageStep = Callable[[int], StepFigures]
ToldLine = Callable[[str], None]


@dataclass(frozen=True)
class StageRecipe:
    """What all stages choose: updates, rate, seed, how often to save and to score."""

    steps: int = 200
    peak: float = 2e-4
    seed: int = 0
    save_every: int = 10
    score_every: int = 50
    score_prompts: int = 32
    """Held-out tasks of every kind."""
    limits: AnswerLimits = field(default_factory=AnswerLimits)

    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.peak, warmup=10, plateau=0.5, final=0.1)


def run_stage(
    stage: Stage,
    scores: Scores,
    recipe: StageRecipe,
    settings: Mapping[str, Any],
    step: StageStep,
    *,
    columns: tuple[str, ...],
    hours: float | None,
    report: ToldLine,
    teachers: Mapping[str, Parameters] | None = None,
) -> bool:
    """Score, train with scores in between, score again; the curves are drawn at every save."""
    trainer = stage.trainer
    with TrainingRun(stage.folder, settings) as run, closing(trainer):
        scores.load(run.steps)
        if run.steps == 0:
            for name, weights in (teachers or {}).items():
                stage.put(weights)
                scores.measure(0, name)
            stage.put()
            scores.measure(0)
        ends = None if hours is None else time.monotonic() + 3600 * hours

        def one(number: int) -> StepFigures:
            figures = step(number)
            if trainer.steps % recipe.score_every == 0 or trainer.steps == recipe.steps:
                stage.put()
                scores.measure(trainer.steps)
            if ends is not None and time.monotonic() > ends:
                run.stopped = True
            return figures

        def saved() -> None:
            stage.save_model()
            if run.curve():
                for column in columns:
                    run.plot((column,), column)

        with RunProgress(recipe.steps, every=1) as progress:
            complete = run.go_on(
                trainer,
                recipe.steps,
                one,
                save_every=recipe.save_every,
                saved=saved,
                progress=progress,
            )
    for line in scores.told():
        report(line)
    return complete


def settings_of(name: str, recipe: StageRecipe, **points: StartingPoint) -> dict[str, Any]:
    """What a continuation has to repeat; models by their fingerprints."""
    given = asdict(recipe)
    for changeable in ("save_every", "score_every"):
        given.pop(changeable)
    return {"stage": name, **given, **{name: one.fingerprint for name, one in points.items()}}


def step_seed(seed: int, step: int) -> int:
    """A seed for what a step draws; those of held-out tasks and of other seeds are others."""
    return (seed + 1) * 1_000_000 + step


def kinds_of(expert: str) -> tuple[Kind, ...]:
    """The kinds of tasks of an expert; UsageError where there is none of that name."""
    if expert not in EXPERTS:
        raise UsageError(f"The experts are {', '.join(EXPERTS)}, got {expert!r}.")
    return EXPERTS[expert]


def lesson_kinds(names: str) -> tuple[Kind, ...]:
    """The kinds of lessons of an expert, of "all", or of a list with commas; UsageError for others.

    A base that lacks an ability learns it by lessons of some kinds before the experts part.
    """
    if names in EXPERTS:
        return EXPERTS[names]
    found = tuple(kind for kind in SHARES if names == "all" or kind in names.split(","))
    if names == "all" or len(found) == len(set(names.split(","))):
        return found
    raise UsageError(
        f"expected one of {', '.join(EXPERTS)}, all, or kinds out of {', '.join(SHARES)} parted by "
        f"commas but found {names!r}; name lessons that there are."
    )
