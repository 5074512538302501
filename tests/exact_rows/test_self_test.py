"""A whole self-test by ops that are exact, on the CPU, and by such of which one breaks."""

from pathlib import Path
from typing import Any

import pytest

from dsv4_mlx.cache.side_by_side import SideBySide
from dsv4_mlx.exact_rows import at_load
from dsv4_mlx.exact_rows.at_load import RowTest
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels.registry import KernelPlan
from tests.exact_rows.breaking import broken_at
from tests.model.row_exact import row_exact_plan

SMALL = TINY.replace(num_hidden_layers=3, num_hash_layers=1, compress_ratios=(0, 4, 128, 0))
"""A layer of each kind."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("small"), SMALL, tokenizer=False)


class Clock:
    """Seconds that pass with every look: as many as `steps` say, in turn."""

    def __init__(self, *steps: float) -> None:
        self._steps, self._looks, self._now = steps, 0, 0.0

    def __call__(self) -> float:
        self._now += self._steps[self._looks % len(self._steps)]
        self._looks += 1
        return self._now


def self_tested(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    in_products: tuple[str, int] = ("", 9),
    in_model: tuple[str, int] = ("", 9),
    clock: Clock | None = None,
) -> Model:
    """A small model after a load with a self-test whose kernels break at will."""

    def bind(backend: str, exact_rows: int = 1) -> KernelPlan:
        return broken_at(row_exact_plan(exact_rows), *in_products)

    monkeypatch.setattr(at_load.registry, "bind", bind)
    # A last bit may be lost where activations are rounded to FP8, which sums of their order decide.
    plan = broken_at(row_exact_plan(1), *in_model, by=1 << 14)
    rows = RowTest(compiled=False, clock=clock or Clock(1.0))
    return load_model(open_checkpoint(folder), kernels=plan, rows=rows)


def test_exact_kernels_give_eight_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = self_tested(folder, monkeypatch)
    assert model.exact_rows == 8 and model.row_finding is not None
    assert model.row_finding.reason == "" and model.row_finding.slower == 0.0
    assert model.row_finding.round_rows == 8
    assert 1e5 < model.row_finding.weight_bytes < 6e6  # some of 3 MB are read twice
    # A test leaves what is to happen at the first tokens.
    told: list[str] = []
    model.at_first_call = lambda: told.append("over")
    assert at_load.ModelTests(model, False, Clock(1.0)).pass_is_exact(2)
    assert at_load.ModelTests(model, False, Clock(1.0)).round_is_exact(2)
    assert told == [] and model.at_first_call is not None and model.exact_rows == 8


@pytest.mark.parametrize(
    ("name", "at", "rows"),
    [
        ("packed_matvec", 2, 1),
        pytest.param("expert_matvec", 6, 5, marks=pytest.mark.slow),
        pytest.param("sparse_attention", 4, 3, marks=pytest.mark.slow),
    ],
)
def test_a_kernel_that_breaks_is_found_at_the_model_s_shapes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int, rows: int
) -> None:
    """Even where the model in its place would be right."""
    model = self_tested(folder, monkeypatch, in_products=(name, at))
    assert model.exact_rows == rows and model.row_finding is not None
    assert ("bits of single ones" in model.row_finding.reason) == (rows == 1)


@pytest.mark.parametrize(
    "name", ["packed_matvec", pytest.param("dense_matvec", marks=pytest.mark.slow)]
)
def test_what_breaks_in_the_model_alone_is_found_by_its_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = self_tested(folder, monkeypatch, in_model=(name, 8))
    assert model.exact_rows == 1 and model.row_finding is not None
    assert "a pass of 8 rows" in model.row_finding.reason


def test_rounds_that_are_not_exact_are_off_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here two of eight timelines take each other's tokens in."""
    own = SideBySide.groups

    def swapped(self: SideBySide, batch: int, length: int, **how: bool) -> list[Any]:
        *groups, (rows, first, one), (_, second, other) = own(self, batch, length, **how)
        return [*groups, (rows, first, other), (rows, second, one)]

    monkeypatch.setattr(SideBySide, "groups", swapped)
    model = self_tested(folder, monkeypatch)
    assert model.exact_rows == 8 and model.row_finding is not None
    assert (model.row_finding.round_rows, model.row_finding.reason) == (1, "")


def test_a_slow_product_turns_several_rows_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second look is an end: in turn of ours, MLX's and nothing, then the other way."""
    turns = [0.1, 1.04, 0.1, 1.0, 0.1, 0.5], [0.1, 0.5, 0.1, 1.0, 0.1, 1.04]
    model = self_tested(folder, monkeypatch, clock=Clock(*turns[0], *turns[1]))
    assert model.exact_rows == 1 and model.row_finding is not None
    assert model.row_finding.slower == pytest.approx(0.08)
    assert "take 8% longer than MLX's" in model.row_finding.reason
    assert model.kernel_plan()["packed_matvec"] == "mlx"
