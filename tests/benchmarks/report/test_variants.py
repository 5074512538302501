"""First calls of texts: told once each, and a text that fails is left beside the report."""

import io
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from benchmarks.report.parts import kernel_cases
from benchmarks.report.teller import Teller
from benchmarks.report.variants import recorded, variant_of
from metal_kernels import registry, sources
from tests.kernels.host import host_plan


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def rows(out: io.StringIO) -> list[dict[str, Any]]:
    return [line["row"] for line in lines(out) if "row" in line]


def test_a_variant_is_what_mlx_keeps_a_library_for() -> None:
    arrays = [mx.zeros((2, 8)), mx.zeros((3,), mx.bfloat16), mx.array(1)]
    how = {"inputs": arrays, "template": [("ROWS", 2), ("T", mx.float32)]}
    assert variant_of("x", how) == "x 2 mlx.core.float32 float32 bfloat16c int32s"
    assert variant_of("x", {"inputs": arrays[:1]}) == "x float32"


@pytest.mark.needs("metalhost")
def test_every_first_call_is_told_once(tmp_path: Path) -> None:
    """The shipped texts of a kernel, run on this CPU: as many variants as its cases have."""
    out = io.StringIO()
    kernel = registry.kernels()["dense_matvec"]
    with host_plan("fast") as plan:
        assert kernel_cases.compared(Teller(out, tmp_path), plan, kernel)
        kept = len(rows(out))
        kernel_cases.compared(Teller(out, tmp_path), plan, kernel)
    told = rows(out)[:kept]
    cases = [row["case"] for row in told if row["kind"] == "case"]
    assert cases == [case.id for case in kernel.cases]
    variants = [row["variant"] for row in told if row["kind"] == "variant"]
    assert len(set(variants)) == len(variants) > 1
    assert {row["text"] for row in told if row["kind"] == "variant"} == {"dense_matvec"}
    assert all(0 <= row["largest_error"] < 1e-5 for row in told if row["kind"] == "case")
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_fails_lies_beside_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the compiler refuses it; what is told before would survive an abort as well."""

    def built(backend: str, name: str, inputs: object, outputs: object) -> Any:
        def call(**how: Any) -> Any:
            raise RuntimeError("program_source:3:1: error: undeclared identifier\n" + "x\n" * 99)

        return call

    monkeypatch.setattr(sources, "built", built)
    out, kernel = io.StringIO(), registry.kernels()["expert_sum"]
    plan = registry.bind("metal")
    assert not kernel_cases.compared(Teller(out, tmp_path), plan, kernel)
    failed = [row for row in rows(out) if row["kind"] == "failed"]
    assert [row["what"] for row in failed] == [f"expert_sum [{case.id}]" for case in kernel.cases]
    assert failed[0]["message"].startswith("RuntimeError: program_source:3:1: error")
    assert failed[0]["message"].count("\n") == 11
    assert any(line.get("at", "").startswith("first call of expert_sum") for line in lines(out))
    texts = sorted(tmp_path.iterdir())
    assert texts and all(path.suffix == ".metal" for path in texts)
    header, body = sources.text("metal", "expert_sum")
    assert header in texts[0].read_text() and body in texts[0].read_text()


def test_recording_ends_with_its_block(tmp_path: Path) -> None:
    with recorded(Teller(io.StringIO(), tmp_path)):
        assert sources.builder.get() is not None
    assert sources.builder.get() is None


def test_wrong_values_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, out = registry.kernels()["expert_sum"], io.StringIO()
    plan = registry.bind("cpu")
    monkeypatch.setattr(
        plan.ops, "expert_sum", lambda *a, **b: 1.01 * kernel.reference(*a, **b), raising=True
    )
    assert not kernel_cases.compared(Teller(out, tmp_path), plan, kernel)
    failed = [row for row in rows(out) if row["kind"] == "failed"]
    assert len(failed) == len(kernel.cases) and "elements differ" in failed[0]["message"]
