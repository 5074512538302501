"""How nano is trained: its config, its objective, the loop, and the folder it ends in.

nano is V4-Flash made small: the same kinds of layers in the same order, the same attention
geometry, the same stored formats. It learns only what the lessons of `training.data` teach.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.files.documents import read_object
from dsv4_mlx.release.config import FLASH, DeepseekV4Config
from dsv4_mlx.testing.tokenizers import write_tokenizer
from dsv4_mlx.training.data.batches import Batch, batch, corpus
from dsv4_mlx.training.losses import corrected_bias
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.objective import NanoObjective
from dsv4_mlx.training.stored_weights import rounded, stored_dtypes, write_release
from dsv4_mlx.training.trainer import Schedule, Trainer

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
class NanoRecipe:
    """Every choice of a run; nano's README.md tells how the embedded weights differ from it."""

    steps: int = 480
    rows: int = 8
    length: int = 256  # every fourth step: half as many rows of twice the length
    peak: float = 4e-3
    seed: int = 0
    save_every: int = 20


def matrices(config: DeepseekV4Config) -> Callable[[str, mx.array], mx.array]:
    """How Muon sees a parameter: gate, up and output groups are matrices of their own."""

    def view(name: str, array: mx.array) -> mx.array:
        rows, columns = array.shape[-2:]
        if name.endswith("experts.gate_up_proj.weight"):
            rows //= 2
        elif name.endswith("o_a_proj.weight"):
            rows //= config.o_groups
        return array.reshape(-1, rows, columns)

    return view


def train(
    folder: Path,
    recipe: NanoRecipe | None = None,
    config: DeepseekV4Config = NANO,
    report: Callable[[str], None] = print,
) -> None:
    """Train from nothing, or from where an earlier run stopped, and write the release folder.

    The state of an unfinished run is `training.safetensors` beside the weights; it is removed at
    the end. Every `save_every` steps the folder holds a model that runs.
    """
    recipe = recipe or NanoRecipe()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():  # else token ids of an earlier run would move
        write_tokenizer(folder, corpus(recipe.seed), config.vocab_size)
        _answer_greedily(folder / "generation_config.json")
    tokenizer = Tokenizer(folder)
    trainer, objective, fixed = _prepared(recipe, config)
    state = folder / "training.safetensors"
    if state.exists():
        trainer.load(state)
        objective.put(trainer.buffers)
        report(f"continuing after step {trainer.steps}")
    started, first = time.monotonic(), trainer.steps
    while trainer.steps < recipe.steps:
        step = trainer.steps
        objective.mtp_weight = 0.3 if step < 0.7 * recipe.steps else 0.1
        loss, extras = trainer.step(_batch(tokenizer, recipe, step))
        for name in objective.routers:
            trainer.buffers[name] = corrected_bias(trainer.buffers[name], extras[name])
        objective.put(trainer.buffers)
        if trainer.steps % 10 == 0:
            pace = (time.monotonic() - started) / (trainer.steps - first)
            nll, mtp = extras["nll"].item(), extras["mtp"].item()
            report(f"step {trainer.steps} loss {loss:.3f} nll {nll:.3f} mtp {mtp:.3f} {pace:.1f} s")
        if trainer.steps % recipe.save_every == 0 or trainer.steps == recipe.steps:
            trainer.save(state)
            _export(folder, config, trainer, fixed)
    _export(folder, config, trainer, fixed)
    state.unlink(missing_ok=True)


def _answer_greedily(path: Path) -> None:
    """The release samples at temperature 1; so small a model then says what it did not learn."""
    settings = read_object(path)
    kept = {name: settings[name] for name in ("bos_token_id", "eos_token_id")}
    path.write_text(json.dumps(kept | {"do_sample": False}, indent=2) + "\n")


def _batch(tokenizer: Tokenizer, recipe: NanoRecipe, step: int) -> Batch:
    fold = 2 if step % 4 == 3 else 1
    return batch(
        tokenizer, recipe.seed, step, rows=recipe.rows // fold, length=recipe.length * fold
    )


def _prepared(
    recipe: NanoRecipe, config: DeepseekV4Config
) -> tuple[Trainer, NanoObjective, Parameters]:
    parameters = initial_parameters(config, recipe.seed)
    fixed = {name: parameters.pop(name) for name in list(parameters) if name.endswith(_UNTRAINED)}
    objective = NanoObjective(config, fixed)
    dtypes = stored_dtypes(config)
    trainer = Trainer(
        parameters,
        objective,
        Schedule(recipe.steps, recipe.peak),
        matrices=matrices(config),
        rounded=lambda masters: rounded(masters, dtypes),
    )
    trainer.buffers = {name: fixed[name] for name in objective.routers}
    return trainer, objective, fixed


def _export(folder: Path, config: DeepseekV4Config, trainer: Trainer, fixed: Parameters) -> None:
    """Write the official folder anew; half-written shards never meet an older index."""
    fresh = folder.with_name(folder.name + ".fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    everything = fixed | trainer.buffers | trainer.parameters
    write_release(fresh, config, everything, shard_bytes=_SHARD_BYTES)
    for path in fresh.iterdir():
        path.replace(folder / path.name)
    fresh.rmdir()
