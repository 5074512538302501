"""What the stages of post-training share: a model under way, its answers, its scores, its folder.

RUN/run.json curve.csv state.safetensors    as every training run has them (`runs`)
RUN/scores.csv scores.svg                   held-out tasks before, now and then, and afterwards
RUN/model/                                  the model in the official format, as of the last save
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsv4_mlx.errors import UsageError
from dsv4_mlx.training.data.lessons import SHARES
from dsv4_mlx.training.data.task import Kind, Split, Task
from dsv4_mlx.training.data.tasks import tasks
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.nano_recipe import matrices
from dsv4_mlx.training.objective import NanoObjective
from dsv4_mlx.training.policy import V4Policy
from dsv4_mlx.training.rewards import Verdict, verdict
from dsv4_mlx.training.rollouts import Sample, put_weights, rollout_model, sampled_groups
from dsv4_mlx.training.starting_point import StartingPoint
from dsv4_mlx.training.stored_weights import rounded, stored_dtypes, write_release
from dsv4_mlx.training.trainer import Objective, Schedule
from dsv4_mlx.training.workers import trainer_of

EXPERTS: dict[str, tuple[Kind, ...]] = {
    "arithmetic": ("arithmetic",),
    "tools": ("tools", "no_tool"),
}
"""The domains that have an expert, and the kinds of tasks each is made of."""

REST = "rest"
DOMAINS: dict[str, tuple[Kind, ...]] = {
    **EXPERTS,
    REST: tuple(kind for kind in SHARES if all(kind not in kinds for kinds in EXPERTS.values())),
}
"""The domains of a distillation: those of the experts, and `rest`, all other kinds, which the base
itself can teach so that the student keeps them."""

SHARD_BYTES = 12 << 20
_MOST_PASSED_OVER = 500
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


@dataclass(frozen=True)
class AnswerLimits:
    """Sizes of what is asked and answered."""

    max_prompt: int = 320
    """Tokens of a prompt; tasks with a longer one are passed over."""
    max_tokens: int = 96
    """Tokens of an answer."""
    at_once: int = 64
    """Answers that are computed at a time."""


class Stage:
    """A model under way from a starting point; `make` gives its objective for a policy."""

    def __init__(
        self,
        folder: Path,
        start: StartingPoint,
        make: Callable[[V4Policy, NanoObjective], Objective],
        schedule: Schedule,
        limits: AnswerLimits,
        *,
        workers: int = 1,
    ):
        self.folder, self.start, self.limits = folder, start, limits
        self.base = NanoObjective(start.config, start.fixed)
        self.policy = V4Policy(self.base, start.fixed)
        self._dtypes = stored_dtypes(start.config)
        self._sampler = rollout_model(start.config)
        self.trainer = trainer_of(
            workers,
            dict(start.trained),
            make(self.policy, self.base),
            schedule,
            matrices=matrices(start.config),
            rounded=self.rounded,
            fixed=start.fixed,
        )
        self.trainer.buffers = {name: start.fixed[name] for name in self.base.routers}

    def rounded(self, parameters: Parameters) -> Parameters:
        """The values that the stored form of `parameters` will have."""
        return rounded(parameters, self._dtypes)

    def put(self, parameters: Parameters | None = None) -> None:
        """Answers come from `parameters` from now on; by default from what was trained so far."""
        if parameters is None:
            parameters = self.rounded(self.trainer.parameters) | self.trainer.buffers
        put_weights(self._sampler, self.start.fixed | parameters)

    def answers(
        self, asked: Sequence[Task], *, group: int, seed: int, greedy: bool = False
    ) -> list[list[Sample]]:
        """`group` answers to each task, of the weights that `put` gave."""
        tokenizer = self.start.tokenizer
        return sampled_groups(
            self._sampler,
            [tokenizer.encode(task.prompt()) for task in asked],
            group=group,
            max_tokens=self.limits.max_tokens,
            stops=(tokenizer.eos_id,),
            seed=seed,
            rows=self.limits.at_once,
            greedy=greedy,
        )

    def judged(
        self, asked: Sequence[Task], groups: Sequence[Sequence[Sample]]
    ) -> list[list[Verdict]]:
        """A verdict for every answer."""
        tokenizer = self.start.tokenizer
        return [
            [verdict(tokenizer, task, sample) for sample in group]
            for task, group in zip(asked, groups, strict=True)
        ]

    def drawn_tasks(self, kinds: Sequence[Kind], split: Split, seed: int, count: int) -> list[Task]:
        """`count` tasks whose prompts are short enough, the kinds in turn, both modes in turn."""
        sources = [self._short(kind, split, seed) for kind in kinds]
        return [next(sources[number % len(kinds)]) for number in range(count)]

    def _short(self, kind: Kind, split: Split, seed: int) -> Iterator[Task]:
        encode, passed_over = self.start.tokenizer.encode, 0
        for task in tasks(kind, split, seed):
            if len(encode(task.prompt())) <= self.limits.max_prompt:
                passed_over = 0
                yield task
            elif (passed_over := passed_over + 1) == _MOST_PASSED_OVER:
                raise UsageError(
                    f"expected tasks of {kind} with prompts of at most {self.limits.max_prompt} "
                    f"tokens but {passed_over} in turn were longer; raise --max-prompt."
                )

    def save_model(self) -> None:
        """Write RUN/model; half-written shards never meet an older index."""
        folder = self.folder / "model"
        fresh = folder.with_name("model.fresh")
        shutil.rmtree(fresh, ignore_errors=True)
        every = self.start.fixed | self.trainer.buffers | self.trainer.parameters
        write_release(fresh, self.start.config, every, shard_bytes=SHARD_BYTES)
        for name in TOKENIZER_FILES:
            if (source := self.start.folder / name).exists():
                shutil.copyfile(source, fresh / name)
        folder.mkdir(exist_ok=True)
        for path in fresh.iterdir():
            path.replace(folder / path.name)
        fresh.rmdir()
