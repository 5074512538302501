"""A prompt's chunk is evaluated a few layers at a time on a GPU, and nothing else is."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.loading import load_model
from dsv4_mlx.model import pacing
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels.registry import KernelPlan, as_ops, kernels

LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TINY.replace(
        num_hidden_layers=LAYERS,
        compress_ratios=(0, 4, 128, 4, 0),
        num_nextn_predict_layers=0,
        hc_sinkhorn_iters=1,
    )
    return write_tiny_checkpoint(tmp_path_factory.mktemp("four"), config, tokenizer=False)


def loaded(folder: Path, backend: str) -> Model:
    ops = {name: kernel.reference for name, kernel in kernels().items()}
    plan = KernelPlan(backend, as_ops(backend, ops), dict.fromkeys(ops, "reference"))
    return load_model(
        open_checkpoint(folder), dtype=mx.float32, numerics=Numerics.PLAIN, kernels=plan
    )


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is started and what is waited for, in order."""
    seen: list[str] = []
    start, wait = mx.async_eval, mx.eval
    monkeypatch.setattr(mx, "async_eval", lambda *a: seen.append("start") or start(*a))
    monkeypatch.setattr(mx, "eval", lambda *a: seen.append("wait") or wait(*a))
    return seen


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        (30, ["start", "start", "wait", "start", "wait", "start", "wait"]),  # one layer each
        (60, ["start", "start", "wait"]),  # two
        (119, ["start"]),  # three, and one that the caller evaluates
        (512, []),  # a chunk this short needs none
    ],
)
def test_groups_of_layers_are_started_while_one_is_under_way(
    folder: Path, events: list[str], monkeypatch: pytest.MonkeyPatch, bound: int, expected
) -> None:
    monkeypatch.setattr(pacing, "TOKEN_LAYERS", bound)
    own = loaded(folder, "metal")
    events.clear()
    cache = own.make_cache()
    logits = own.last_logits(mx.arange(2, 32)[None], cache)
    assert events == expected
    monkeypatch.setattr(pacing, "TOKEN_LAYERS", 10**9)
    unpaced = own.last_logits(mx.arange(2, 32)[None], own.make_cache())
    np.testing.assert_array_equal(np.array(logits), np.array(unpaced))


@pytest.mark.parametrize(("backend", "tokens"), [("metal", 1), ("cpu", 30)])
def test_a_decoded_token_and_a_cpu_are_left_alone(
    folder: Path, events: list[str], monkeypatch: pytest.MonkeyPatch, backend: str, tokens: int
) -> None:
    monkeypatch.setattr(pacing, "TOKEN_LAYERS", 1)
    own = loaded(folder, backend)
    events.clear()
    own(mx.full((3, tokens), 7, mx.int32))
    assert events == []


@pytest.mark.parametrize(
    ("tokens", "layers"), [(2, 256), (100, 5), (171, 2), (512, 1), (2048, 1), (8192, 1)]
)
def test_no_evaluation_has_more_than_its_bound(tokens: int, layers: int) -> None:
    """One layer of 2,048 tokens is the longest of those that this program asks for."""
    assert pacing.layers_at_a_time(tokens) == layers
    assert layers == 1 or tokens * layers <= pacing.TOKEN_LAYERS
