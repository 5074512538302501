"""The whole self-test on the Metal texts, by the host runner: nothing of it is stood in for."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dsv4_mlx.exact_rows.at_load import RowTest
from dsv4_mlx.exact_rows.whole_pass import pass_is_exact
from dsv4_mlx.loading import load_model
from dsv4_mlx.model import own_products
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels import registry
from metal_kernels.ops import Ops
from tests.kernels.host import host_plan, launched

pytestmark = [pytest.mark.needs("metalhost"), pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), TINY, tokenizer=False)


class Even:
    """A clock by which everything takes as long."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def self_tested(folder: Path, plan: registry.KernelPlan) -> Model:
    """Loaded with a self-test. Steps are not compiled: MLX would compile for the CPU here."""
    return load_model(
        open_checkpoint(folder),
        kernels=plan,
        rows=RowTest(compiled=False, clock=Even()),
    )


def test_the_texts_keep_the_bits_of_eight_rows(folder: Path) -> None:
    with host_plan("fast") as plan, launched() as texts:
        model = self_tested(folder, plan)
    assert model.row_finding is not None and model.row_finding.reason == ""
    assert model.exact_rows == 8
    assert 0 < model.row_finding.weight_bytes < 10e6
    assert {"packed_matvec", "dense_matvec", "sparse_attention_matrix"} <= {t.text for t in texts}


def test_splits_by_the_number_of_queries_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As attention had them once: of three queries or more keys are split otherwise."""
    monkeypatch.setattr("metal_kernels.sparse_attention.launch._THREADGROUPS", 12)
    monkeypatch.setattr("metal_kernels.sparse_attention.launch._queries", lambda count: count)
    with host_plan("fast") as plan:
        model = self_tested(folder, plan)
    assert model.exact_rows < 8 and model.row_finding is not None
    if model.exact_rows == 1:
        assert "attention over" in model.row_finding.reason


def test_a_pass_that_leaves_another_cache_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product that is right at the shapes of every test alone and wrong inside of the model."""
    own = own_products.packed

    def wrong(x: mx.array, matrix: Any, ops: Ops) -> mx.array:
        result = own(x, matrix, ops)
        bits = result.view(mx.uint32) + (x.shape[0] == 8)
        return bits.view(mx.float32)

    with host_plan("fast", exact_rows=8) as plan:
        model = load_model(open_checkpoint(folder), kernels=plan)
        assert pass_is_exact(model, 8, compiled=False)
        monkeypatch.setattr(own_products, "packed", wrong)
        assert not pass_is_exact(model, 8, compiled=False)
        assert pass_is_exact(model, 5, compiled=False)
