"""Small models whose experts are streamed, and disks that answer in ways of their own."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np

from convert.app import main
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.expert_files import ExpertPart, ExpertReader, without_experts
from dsv4_mlx.weights.expert_store import layer_parts
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.streaming import Bytes

SMALL = TINY.replace(
    num_hidden_layers=3,
    num_hash_layers=1,
    compress_ratios=(0, 4, 128, 0),
    num_attention_heads=2,
    head_dim=64,
    qk_rope_head_dim=16,
    q_lora_rank=128,
    o_lora_rank=64,
    moe_intermediate_size=128,
    index_n_heads=4,
    index_head_dim=32,
)
"""A layer of each kind, of 8 experts and 2 a token; inputs in whole groups of 128."""

MIXED = """\
description = "experts of one layer in 2 bits and of another in 3"
[[matrices]]
match = "model.layers.0.mlp.experts.*"
bits = 2
group_size = 64
[[matrices]]
match = "model.layers.2.mlp.experts.*"
bits = 3
group_size = 32
"""
RECIPES = ("official", "native", "q2", "mixed")


def written(parent: Path, recipe: str) -> Path:
    """The folder of SMALL as one of RECIPES stores it, written below `parent` once."""
    source, folder = parent / "official", parent / recipe
    if not source.is_dir():
        write_tiny_checkpoint(source, SMALL, shards=3)
    if not folder.is_dir():
        rules = parent / "mixed.toml"
        rules.write_text(MIXED)
        chosen = str(rules) if recipe == "mixed" else recipe
        assert main([str(source), str(folder), "--recipe", chosen]) == 0
    return folder


def memory_of(folder: Path, slots: int) -> int:
    """Bytes of so many slots in every layer."""
    checkpoint = open_checkpoint(folder)
    _, experts = without_experts(plan_parameters(checkpoint))
    return slots * sum(layer.slot_bytes for layer in layer_parts(experts).values())


def load(
    folder: Path, slots: int | None, numerics: Numerics = Numerics.OFFICIAL, **options: Any
) -> Model:
    """The model with so many experts of each layer in memory, or with all of them as parameters."""
    memory = None if slots is None else memory_of(folder, slots)
    return load_model(
        open_checkpoint(folder), numerics=numerics, backend="cpu", expert_memory=memory, **options
    )


def logits(model: Model, tokens: Sequence[int], prompt: int) -> np.ndarray:
    """After a prompt, and after each token that follows it: [1 + n, V]."""
    cache = model.make_cache()
    calls = [tokens[:prompt], *([token] for token in tokens[prompt:])]
    return np.concatenate(
        [np.array(model.last_logits(mx.array(call)[None], cache)) for call in calls]
    )


class _LateRead(Future[None]):
    """A read that happens when somebody waits, among others in the order of their disk."""

    def __init__(self, disk: "LateDisk") -> None:
        super().__init__()
        self._disk = disk

    def exception(self, timeout: float | None = None) -> BaseException | None:
        while not self.done():
            self._disk.read_one()
        return super().exception(timeout)


class LateDisk:
    """Reads as late as they may be, in a random order; what was in a slot is poisoned at once."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._waiting: list[tuple[_LateRead, ExpertReader, ExpertPart, int, Bytes]] = []
        self.reads = 0

    def begin(
        self, reader: ExpertReader, parts: Sequence[ExpertPart], expert: int, rows: Sequence[Bytes]
    ) -> list[Future[None]]:
        """As `ExpertReader.begin`."""
        found: list[Future[None]] = []
        for part, row in zip(parts, rows, strict=True):
            row[:] = 0xFF  # NaN as scales of any format
            read = _LateRead(self)
            self._waiting.append((read, reader, part, expert, row))
            found.append(read)
        return found

    def read_one(self) -> None:
        """One of the reads that wait happens."""
        number = int(self._random.integers(len(self._waiting)))
        read, reader, part, expert, row = self._waiting.pop(number)
        self.reads += 1
        try:
            reader._read(part, expert, row)
        except Exception as error:
            read.set_exception(error)
        else:
            read.set_result(None)


@contextmanager
def late_disk(seed: int) -> Iterator[LateDisk]:
    """Inside, experts are read as LateDisk reads them."""
    disk = LateDisk(seed)
    with mock.patch.object(ExpertReader, "begin", lambda *given: disk.begin(*given)):
        yield disk
