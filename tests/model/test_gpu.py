"""The models on this machine's GPU, where it has one: the CPU's greedy tokens."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.cache import evaluated
from dsv4_mlx.loading import RowTest, load_model
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.model import running

PROMPT, COUNT = 40, 24
LONG = 240
"""A prompt after which every layer has entries, and windows of 4 and 128 tokens close soon."""


@pytest.fixture(autouse=True)
def same_device_afterwards() -> Iterator[None]:
    before = mx.default_device()
    yield
    mx.set_default_device(before)


def greedy(
    folder: Path, backend: str, length: int = PROMPT, *, count: int = COUNT, replayed: bool = False
) -> list[int]:
    """The greedy tokens after a prompt of seeded ones, on a backend, as `load` sets it up."""
    model = load_model(
        open_checkpoint(folder),
        backend=backend,
    )
    used = {backend, "mlx", "resident", *(["reference"] * (backend == "cpu"))}
    assert set(model.kernel_plan().values()) == used
    prompt = np.random.default_rng(0).integers(2, model.config.vocab_size, length)
    stepping = model.compiled_step() if replayed else model
    cache, tokens, part = model.make_cache(), [], mx.array(prompt)[None]
    for _ in range(count):
        part = stepping.last_logits(part, cache).argmax(-1)[None]
        mx.eval(part, evaluated(cache))
        tokens.append(int(part.item()))
    return tokens


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("metal", "cuda")]
)
@pytest.mark.parametrize("name", ["tiny", "nano"])
def test_greedy_tokens_are_the_cpus(backend: str, name: str, tmp_path: Path) -> None:
    folder = running.checkpoint_folder(name, tmp_path)
    assert greedy(folder, backend) == greedy(folder, "cpu")


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("metal", "cuda")]
)
@pytest.mark.parametrize("name", ["tiny", "nano"])
def test_a_replayed_graph_gives_the_same_tokens(backend: str, name: str, tmp_path: Path) -> None:
    folder = running.checkpoint_folder(name, tmp_path)
    assert greedy(folder, backend, LONG, replayed=True) == greedy(folder, backend, LONG)


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("metal", "cuda")]
)
@pytest.mark.parametrize("name", ["tiny", "nano"])
def test_eight_rows_keep_the_bits_of_single_ones(backend: str, name: str, tmp_path: Path) -> None:
    """What a load tries where something drafts; by a clock for which nothing is slow."""
    folder = running.checkpoint_folder(name, tmp_path)
    rows = RowTest(clock=itertools.count().__next__)
    model = load_model(open_checkpoint(folder), backend=backend, rows=rows)
    assert model.row_finding is not None and model.row_finding.reason == ""
    assert model.exact_rows == 8


def test_the_cpu_answers_the_same_twice(tmp_path: Path) -> None:
    """What the comparison above rests on, wherever it cannot be made."""
    folder = running.checkpoint_folder("tiny", tmp_path)
    tokens = greedy(folder, "cpu", count=6)
    assert tokens == greedy(folder, "cpu", count=6) and len(set(tokens)) > 1
