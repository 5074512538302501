"""benchmarks/kernels.py on the CPU plan: what is timed, what is counted, what is recorded."""

import csv
from pathlib import Path

import mlx.core as mx
import pytest

from benchmarks import kernels, record
from metal_kernels import registry
from metal_kernels.contract import Case, Kernel, Size


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)


def doubled(x: mx.array) -> tuple[mx.array, mx.array]:
    return x + x, x[:1]


CASE = Case("small", lambda seed: {"x": mx.ones((4, 8)), "scale": 2.0})


def test_the_floor_is_every_array_once() -> None:
    x = mx.ones((4, 8))
    assert kernels.moved_bytes({"x": x, "scale": 2.0}, doubled(x)) == 4 * (32 + 32 + 8)


def test_a_declared_floor_is_taken() -> None:
    size = Size(Case("small", lambda seed: {"x": mx.ones((4, 8))}), flops=32, nbytes=999)
    timing = kernels.measure(doubled, size, rounds=2, on_gpu=False, round_s=0.001)
    assert timing.nbytes == 999
    assert len(timing.seconds) == 2 and min(timing.seconds) > 0


def test_inputs_on_a_gpu_exceed_its_caches() -> None:
    seeds: list[int] = []

    def make(seed: int) -> dict[str, mx.array]:
        seeds.append(seed)
        return {"x": mx.ones((4, 8))}

    size = Size(Case("small", make), flops=0, nbytes=1 << 26)
    kernels.measure(doubled, size, rounds=1, on_gpu=True, round_s=0.001)
    assert sorted(set(seeds)) == [0, 1, 2, 3]


def test_a_kernel_without_sizes_is_timed_at_its_first_case() -> None:
    kernel = Kernel("k", "", doubled, {}, {}, 0.0, cases=(CASE,))
    assert [size.case.id for size in kernels.sizes(kernel)] == ["small"]


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_declared_size_is_one_the_reference_takes(name: str) -> None:
    """Shapes alone: nothing is computed."""
    kernel = registry.kernels()[name]
    for size in kernels.sizes(kernel):
        arguments = size.case.make(0)
        assert kernels.moved_bytes(arguments, kernel.reference(**arguments)) > 0
        assert size.flops >= 0 and (size.nbytes is None or size.nbytes > 0)


def test_a_small_run_times_first_cases() -> None:
    (row,) = kernels.rows("cpu", ["expert_matmul"], 1, 0.001, small=True)
    first = registry.kernels()["expert_matmul"].cases[0]
    assert row["size"] == first.id and row["calls"] >= 1


def test_rows_are_printed_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kernels.main(["--backend", "cpu", "--kernel", "expert_sum", "--rounds", "1"])
    shown = capsys.readouterr().out
    with (tmp_path / "kernels.csv").open() as file:
        recorded = list(csv.DictReader(file))
    assert (
        shown.count("expert_sum")
        == len(recorded)
        == len(kernels.sizes(registry.kernels()["expert_sum"]))
    )
    row = recorded[0]
    assert row["backend"] == "cpu" and row["device"] == "CPU" and row["machine"]
    assert row["implementation"] == "reference"
    assert row["command"].endswith("--backend cpu --rounds 1 --kernel expert_sum")
    expected = int(row["floor_bytes"]) / float(row["median_us"]) / 1e3
    assert float(row["gb_per_s"]) == pytest.approx(expected, rel=0.02, abs=0.01)


def test_an_unknown_kernel_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kernels.main(["--kernel", "softmax"])
    assert f"expected kernels out of {registry.NAMES[0]}, " in capsys.readouterr().err


def test_every_kernel_declares_sizes_of_the_release() -> None:
    undeclared = [name for name, kernel in registry.kernels().items() if not kernel.sizes]
    assert undeclared == []
