"""benchmarks/report.py: its logic on the CPU plan, and what it says where there is no GPU."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from benchmarks import report
from metal_kernels import backend, registry
from metal_kernels.contract import Case, Kernel

KERNEL = Kernel(
    name="double",
    summary="",
    reference=lambda x: x + x,
    inputs={"x": "n"},
    outputs={"y": "n"},
    tolerance=1e-12,
    cases=(Case("ones", lambda seed: {"x": mx.ones((4,))}),),
)


@pytest.fixture
def one_kernel(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A registry of one kernel whose implementation is `double.run`; nano is left out."""
    double = SimpleNamespace(run=lambda x: 2 * x)
    ops = SimpleNamespace(double=lambda x: double.run(x))
    plan = registry.KernelPlan("cpu", ops, {"double": "cpu"})
    monkeypatch.setattr(registry, "kernels", lambda: {"double": KERNEL})
    monkeypatch.setattr(registry, "plan", lambda backend="auto": plan)
    agrees = {"same_tokens_as_cpu": True, "tokens": 4, "median_ms": 1.5}
    monkeypatch.setattr(report, "nano", lambda backend: agrees)
    return double


def run(tmp_path: Path) -> tuple[int, dict[str, Any], str]:
    arguments = ["--backend", "cpu", "--quick", "--rounds", "1", "--out", str(tmp_path)]
    status = report.main(arguments)
    found = json.loads((tmp_path / "report.json").read_text())
    return status, found, (tmp_path / "report.md").read_text()


def test_a_machine_without_a_gpu_gets_one_sentence_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backend, "available", lambda: ("cpu",))
    monkeypatch.delenv("DSV4_BACKEND", raising=False)
    monkeypatch.chdir(tmp_path)
    assert report.main([]) == 1
    assert capsys.readouterr().out == report.NO_GPU + "\n"
    assert report.NO_GPU.count(".") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_absent_backend_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backend, "available", lambda: ("cpu",))
    assert report.main(["--backend", "metal", "--out", str(tmp_path)]) == 1
    assert "expected the metal backend" in capsys.readouterr().err


def test_agreement_is_reported(one_kernel: SimpleNamespace, tmp_path: Path) -> None:
    status, found, page = run(tmp_path)
    assert status == 0
    assert found["kernels"]["double"] == {"implementation": "cpu", "cases": 1, "failures": {}}
    assert [row["kernel"] for row in found["timings"]] == ["double"]
    assert "Everything agrees." in page
    assert "| double | ones | 1 of 1 right |" in page
    assert "nano: the same greedy tokens as on the CPU, 1.5 ms per token." in page


def test_wrong_values_are_reported_and_not_timed(
    one_kernel: SimpleNamespace, tmp_path: Path
) -> None:
    one_kernel.run = lambda x: 2.001 * x
    status, found, page = run(tmp_path)
    assert status == 1
    assert (
        "double[ones].y: normalised squared error" in found["kernels"]["double"]["failures"]["ones"]
    )
    assert found["timings"] == []
    assert "**Something is wrong, see below.**" in page
    assert "| double | | 0 of 1 right | not timed | | |" in page
    assert "## double [ones]" in page


def test_a_text_that_does_not_compile_is_reported(
    one_kernel: SimpleNamespace, tmp_path: Path
) -> None:
    def broken(x: mx.array) -> mx.array:
        raise RuntimeError("program_source:3:1: error: use of undeclared identifier\n" + "x\n" * 99)

    one_kernel.run = broken
    status, found, page = run(tmp_path)
    assert status == 1
    message = found["kernels"]["double"]["failures"]["ones"]
    assert message.startswith("RuntimeError: program_source:3:1") and message.count("\n") == 11
    assert "use of undeclared identifier" in page


def test_other_tokens_than_on_the_cpu_are_reported(
    one_kernel: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    differs = {"same_tokens_as_cpu": False, "tokens": 4, "median_ms": 1.5}
    monkeypatch.setattr(report, "nano", lambda backend: differs)
    status, _, page = run(tmp_path)
    assert status == 1
    assert "nano: OTHER tokens than on the CPU" in page


def test_a_part_that_fails_does_not_hide_the_rest(
    one_kernel: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(backend: str) -> dict[str, Any]:
        raise MemoryError("no room")

    monkeypatch.setattr(report, "nano", fails)
    status, found, page = run(tmp_path)
    assert status == 1
    assert found["nano"] == {"failed": "MemoryError: no room"}
    assert "| double | ones | 1 of 1 right |" in page and "MemoryError: no room" in page


def test_kernels_without_an_implementation_are_named(
    one_kernel: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = registry.KernelPlan("cuda", SimpleNamespace(), {"double": "reference"})
    assert report.all_compared(plan) == {}
    page = report.markdown(
        {
            "device": "card",
            "backend": "cuda",
            "date": "",
            "machine": "",
            "system": "",
            "versions": {},
            "kernels": {},
            "references": ["double"],
            "timings": [],
            "nano": {"failed": "x"},
        }
    )
    assert "Not written for this backend yet: double." in page


def test_nano_answers_and_is_timed() -> None:
    found = report.nano("cpu")
    assert found["same_tokens_as_cpu"] and found["tokens"] == report.GREEDY_TOKENS
    assert found["median_ms"] > 0
