"""How nano is trained: its config, its objective, the loop, and the folder it ends in.

nano is V4-Flash made small: the same kinds of layers in the same order, the same attention
geometry, the same stored formats. It learns only what the lessons of `training.data` teach.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import cast

import mlx.core as mx

from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.files.documents import read_object
from dsv4_mlx.release.config import FLASH, DeepseekV4Config
from dsv4_mlx.testing.tokenizers import write_tokenizer
from dsv4_mlx.training.attention import Indexing
from dsv4_mlx.training.data.batches import Batch, batch, corpus
from dsv4_mlx.training.data.lessons import SHARES
from dsv4_mlx.training.data.task import Kind
from dsv4_mlx.training.induction import add_induction
from dsv4_mlx.training.losses import corrected_bias
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.objective import NanoObjective, WeightedTokens
from dsv4_mlx.training.runs import StepFigures, StepListener, TrainingRun
from dsv4_mlx.training.stored_weights import rounded, stored_dtypes, write_release
from dsv4_mlx.training.trainer import Schedule, Trainer
from dsv4_mlx.training.workers import require_rows, trainer_of

NANO = FLASH.replace(
    vocab_size=2048,
    hidden_size=256,
    num_hidden_layers=5,
    num_attention_heads=8,
    q_lora_rank=128,
    o_groups=2,
    o_lora_rank=128,
    moe_intermediate_size=128,
    n_routed_experts=8,
    num_experts_per_tok=2,
    num_hash_layers=1,
    index_n_heads=32,
    index_topk=128,
    compress_ratios=(0, 0, 4, 128, 4, 0),
)
"""Flash's schedule with one CSA and HCA pair; 17 million parameters."""

_UNTRAINED = ("tid2eid", "e_score_correction_bias")  # a table, and what load balancing moves
_SHARD_BYTES = 12 << 20


@dataclass(frozen=True)
class Phase:
    """Some steps of one length, what the indexers do meanwhile (see `attention`), and of what."""

    steps: int
    rows: int
    length: int
    indexing: Indexing
    kinds: tuple[Kind, ...] = tuple(SHARES)


# Recall begins with drills alone, near ones first. Attention is dense while sequences are short;
# the indexers then learn where it goes, and select from there on, as in the report. Lessons with
# tools are longer than 512 tokens.
PHASES = (
    Phase(60, 16, 256, "off", ("recall",)),
    Phase(40, 8, 512, "off", ("recall",)),
    Phase(160, 16, 256, "off"),
    Phase(120, 8, 512, "off"),
    Phase(30, 4, 1024, "dense"),
    Phase(2120, 4, 1024, "sparse"),
    Phase(40, 2, 2048, "sparse"),
)
"""2,570 steps of 4,096 tokens: Muon's step costs the same however many they are."""


@dataclass(frozen=True)
class NanoRecipe:
    """Every choice of a run; nano's README.md tells how the embedded weights differ from it."""

    phases: tuple[Phase, ...] = PHASES
    peak: float = 6e-3
    seed: int = 0
    save_every: int = 20
    recompute: bool = False
    """Drop what layers computed and make it again in the backward pass: memory for time."""

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase(self, step: int) -> Phase:
        """The phase of a step, counted from 0."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def shortened(self, steps: int) -> NanoRecipe:
        """The same phases in proportion, `steps` together."""
        ends = [0, *accumulate(phase.steps for phase in self.phases)]
        ends = [round(end * steps / self.steps) for end in ends]
        pairs = zip(self.phases, pairwise(ends), strict=True)
        phases = [replace(phase, steps=stop - start) for phase, (start, stop) in pairs]
        return replace(self, phases=tuple(phases))


def matrices(config: DeepseekV4Config) -> Callable[[str, mx.array], mx.array]:
    """How Muon sees a parameter: gate, up and output groups are matrices of their own, as are the
    keys of Engram's streams and its value."""

    def view(name: str, array: mx.array) -> mx.array:
        rows, columns = array.shape[-2:]
        if name.endswith("experts.gate_up_proj.weight"):
            rows //= 2
        elif name.endswith("o_a_proj.weight"):
            rows //= config.o_groups
        elif name.endswith("engram.kv_proj.weight"):
            rows //= config.hc_mult + 1
        return array.reshape(-1, rows, columns)

    return view


Draw = Callable[[int, Phase], WeightedTokens]
"""Step, from 0, and its phase -> the batch, which follows from them alone."""


class Pretraining:
    """The `base` stage: next token and MTP over the phases of a recipe; `step` is one update."""

    def __init__(
        self, recipe: NanoRecipe, config: DeepseekV4Config, draw: Draw, *, workers: int = 1
    ):
        self.recipe, self.config = recipe, config
        self._draw = draw
        self.trainer, self._objective, self._fixed = _prepared(recipe, config, workers)

    def step(self, number: int) -> StepFigures:
        """Make step `number`, from 0; its figures, `loss` among them."""
        recipe, trainer, objective = self.recipe, self.trainer, self._objective
        phase = recipe.phase(number)
        objective.put(trainer.buffers)
        objective.set_indexing(phase.indexing)
        objective.mtp_weight = 0.3 if number < 0.7 * recipe.steps else 0.1
        loss, extras = trainer.step(self._draw(number, phase))
        for name in objective.routers:
            trainer.buffers[name] = corrected_bias(trainer.buffers[name], extras[name])
        asked = ("nll", "mtp", "index", "recall")
        found = {name: _figure(extras.get(name)) for name in asked}
        tokens = phase.rows * phase.length
        return {"loss": loss, **found, "length": phase.length, "tokens": tokens}

    def weights(self) -> Parameters:
        """Every array of the model as it stands."""
        return self._fixed | self.trainer.buffers | self.trainer.parameters


def train(
    folder: Path,
    recipe: NanoRecipe | None = None,
    config: DeepseekV4Config = NANO,
    progress: StepListener | None = None,
    workers: int = 1,
) -> bool:
    """Train from nothing, or from where an earlier run stopped, and write the release folder.

    The run is FOLDER/base (see `runs`). Every `save_every` steps FOLDER holds a model that runs.
    False where a signal ended it; the same call goes on. `workers` processes share each step.
    """
    recipe = recipe or NanoRecipe()
    require_rows(workers, min(phase.rows for phase in recipe.phases))
    settings = {"stage": "base", **asdict(recipe), "workers": workers}
    with TrainingRun(folder / "base", settings) as run:
        if not (folder / "tokenizer.json").exists():  # else ids of an earlier run would move
            write_tokenizer(folder, corpus(recipe.seed), config.vocab_size)
            _answer_greedily(folder / "generation_config.json")
        tokenizer = Tokenizer(folder)

        def draw(step: int, phase: Phase) -> Batch:
            rows, length = phase.rows, phase.length
            return batch(tokenizer, recipe.seed, step, rows, length, phase.kinds)

        stage = Pretraining(recipe, config, draw, workers=workers)
        with closing(stage.trainer):
            return run.go_on(
                stage.trainer,
                recipe.steps,
                stage.step,
                save_every=recipe.save_every,
                saved=lambda: _export(folder, config, stage.weights()),
                progress=progress,
            )


def _figure(value: mx.array | None) -> float:
    return math.nan if value is None else cast(float, value.item())


def _answer_greedily(path: Path) -> None:
    """The release samples at temperature 1; so small a model then says what it did not learn."""
    settings = read_object(path)
    kept = {name: settings[name] for name in ("bos_token_id", "eos_token_id")}
    path.write_text(json.dumps(kept | {"do_sample": False}, indent=2) + "\n")


def _prepared(
    recipe: NanoRecipe, config: DeepseekV4Config, workers: int = 1
) -> tuple[Trainer, NanoObjective, Parameters]:
    parameters = initial_parameters(config, recipe.seed)
    add_induction(config, parameters)
    fixed = {name: parameters.pop(name) for name in list(parameters) if name.endswith(_UNTRAINED)}
    objective = NanoObjective(config, fixed, recompute=recipe.recompute)
    dtypes = stored_dtypes(config)
    trainer = trainer_of(
        workers,
        parameters,
        objective,
        Schedule(recipe.steps, recipe.peak),
        matrices=matrices(config),
        rounded=lambda masters: rounded(masters, dtypes),
        fixed=fixed,
        recompute=recipe.recompute,
    )
    trainer.buffers = {name: fixed[name] for name in objective.routers}
    return trainer, objective, fixed


def _export(folder: Path, config: DeepseekV4Config, weights: Parameters) -> None:
    """Write the official folder anew; half-written shards never meet an older index."""
    fresh = folder.with_name(folder.name + ".fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    write_release(fresh, config, weights, shard_bytes=_SHARD_BYTES)
    for path in fresh.iterdir():
        path.replace(folder / path.name)
    fresh.rmdir()
