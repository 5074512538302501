"""The self-test of a load: when it runs, what is kept, and what a model does afterwards."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.exact_rows import at_load
from dsv4_mlx.exact_rows.at_load import LoadedRows, ModelTests, RowTest, machine_name
from dsv4_mlx.exact_rows.finding import ProductTimes, RowsAlike
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.tracing import release_plan
from dsv4_mlx.warm_up import WarmUp
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels import sources
from metal_kernels.contract import ContractError
from metal_kernels.registry import PRODUCTS, KernelPlan, bind


class Kept:
    """Findings in memory, as JSON."""

    def __init__(self) -> None:
        self.records: dict[str, str] = {}

    def load(self, machine: str) -> Any:
        return json.loads(self.records.get(machine, "null"))

    def store(self, machine: str, record: dict[str, Any]) -> None:
        self.records[machine] = json.dumps(record)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a self-test would try, whose results are given; every item is one that ran."""
    found: list[Any] = []

    def passes(tests: ModelTests, rows: int) -> bool:
        found.append((rows, tests._model.exact_rows))
        return True

    def rounds(tests: ModelTests, rows: int) -> bool:
        found.append(f"a round of {rows}")
        return True

    monkeypatch.setattr(ModelTests, "alike", lambda _: found.append("alike") or RowsAlike(8))
    monkeypatch.setattr(ModelTests, "times", lambda _: ProductTimes([1.0], [1.0], [0.0]))
    monkeypatch.setattr(ModelTests, "pass_is_exact", passes)
    monkeypatch.setattr(ModelTests, "round_is_exact", rounds)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), TINY, tokenizer=False)


def loaded(folder: Path, rows: RowTest | None, plan: KernelPlan | None = None) -> Model:
    return load_model(open_checkpoint(folder), kernels=plan or bind("metal"), rows=rows)


def test_a_load_sets_what_was_found_and_keeps_it(folder: Path, tried: list[Any]) -> None:
    kept = Kept()
    model = loaded(folder, RowTest(kept))
    assert model.exact_rows == model.ops.exact_rows == 8
    assert model.row_finding == RowFinding(8, "", 0.0, round_rows=8)
    assert {model.kernel_plan()[name] for name in PRODUCTS} == {"metal"}
    assert tried == ["alike", (8, 1), "a round of 8"]
    again = loaded(folder, RowTest(kept))
    assert again.exact_rows == 8 and again.row_finding == model.row_finding
    assert len(tried) == 3 and len(kept.records) == 1


def test_slow_products_leave_plain_decoding_to_mlx(
    folder: Path, tried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = ProductTimes([1.2], [1.0], [0.0])
    monkeypatch.setattr(ModelTests, "times", lambda _: slow)
    kept = Kept()
    for model in (loaded(folder, RowTest(kept)), loaded(folder, RowTest(kept))):
        assert model.exact_rows == model.ops.exact_rows == 1
        assert model.row_finding is not None and "20% longer" in model.row_finding.reason
        assert {model.kernel_plan()[name] for name in PRODUCTS} == {"mlx"}
    assert tried == ["alike"]


def test_nothing_is_tried_on_a_cpu_or_unasked_or_without_drafts(
    folder: Path, tried: list[Any], tmp_path: Path
) -> None:
    on_cpu = loaded(folder, RowTest(), bind("cpu"))
    unasked = loaded(folder, None)
    plain = write_tiny_checkpoint(
        tmp_path / "plain", TINY.replace(num_nextn_predict_layers=0), tokenizer=False
    )
    assert not Model(open_checkpoint(plain).config, plan=bind("metal")).mtp
    for model in (on_cpu, unasked, loaded(plain, RowTest())):
        assert (model.exact_rows, model.row_finding) == (1, None)
    assert tried == []
    assert loaded(plain, RowTest(without_weights=True)).exact_rows == 8


def test_kernels_left_out_are_a_reason_and_nothing_is_tried(folder: Path, tried: list[Any]) -> None:
    kept = Kept()
    model = loaded(folder, RowTest(kept), bind("metal", ["router"]))
    assert model.exact_rows == 1 and model.row_finding is not None
    assert model.row_finding.reason.startswith("router left out")
    assert tried == [] and not kept.records


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Unable to build metal library\nerror: no"), "refuse this model (error: no)"),
        (ContractError("packed_matvec: expected 32"), "(packed_matvec: expected 32)"),
    ],
)
def test_what_mlx_refuses_is_a_reason_that_is_not_kept(
    folder: Path, tried: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fails(_: ModelTests) -> RowsAlike:
        raise error

    monkeypatch.setattr(ModelTests, "alike", fails)
    kept = Kept()
    model = loaded(folder, RowTest(kept))
    assert model.exact_rows == 1 and not kept.records
    assert model.row_finding is not None and words in model.row_finding.reason


def test_memory_that_runs_out_fails_the_load(
    folder: Path, tried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: ModelTests) -> RowsAlike:
        raise RuntimeError("[malloc] Unable to allocate 5 bytes")

    monkeypatch.setattr(ModelTests, "alike", fails)
    with pytest.raises(RuntimeError, match="malloc"):
        loaded(folder, RowTest())


def name(plan: KernelPlan | None = None, **changes: Any) -> str:
    given: dict[str, Any] = {
        "config": TINY, "plan": release_plan(TINY), "kernels": plan or bind("metal"),
        "dense": "BF16", "numerics": Numerics.OFFICIAL, "storage": "compact",
    }  # fmt: skip
    return machine_name(**given | changes)


def test_a_record_of_anything_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Of another MLX, kernel text, GPU, system, backend, or a model of other shapes."""
    own = name()
    assert own == name()
    others = [
        name(bind("cuda")),
        name(config=TINY.replace(o_lora_rank=96)),
        name(storage="bfloat16"),
        name(dense="F32"),
        name(numerics=Numerics.PLAIN),
    ]
    for target, value in (
        ("version", lambda _: "0.99"),
        ("mac_ver", lambda: ("27.1", (), "")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(at_load, target, value)
            others.append(name())
    with monkeypatch.context() as patch:
        patch.setattr(mx, "device_info", lambda: {"device_name": "Apple M9"})
        others.append(name())
    with monkeypatch.context() as patch:
        patch.setattr(sources, "digest", lambda: "other texts")
        others.append(name())
    assert len({own, *others}) == len(others) + 1
    kept = Kept()
    kept.store(own, RowFinding(8).as_record())
    assert LoadedRows(RowTest(kept), bind("metal"), own).rows == 8
    for other in others:
        assert RowTest(kept).recorded(other) is None


def test_the_digest_of_texts_changes_with_any_of_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    (tmp_path / "swiglu").mkdir()
    text, launch = tmp_path / "swiglu" / "swiglu.metal", tmp_path / "swiglu" / "launch.py"
    found = []
    for one, two in (("a", "b"), ("a", "c"), ("d", "b"), ("ab", "")):
        text.write_text(one)
        launch.write_text(two)
        found.append(sources.digest())
    assert len({*found}) == 4 and sources.digest() == found[-1]


def test_forms_are_compiled_ahead_for_what_the_load_may_find(
    folder: Path, tried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For eight rows while nothing is known, else for as many as were found; all are there when
    the test begins."""
    started: list[tuple[int, bool]] = []

    class Noted(WarmUp):
        def start(self) -> None:
            started.append((self._shapes.rows, False))

        def join(self) -> None:
            assert "alike" not in tried
            started.append((self._shapes.rows, True))

    monkeypatch.setattr("dsv4_mlx.loading.WarmUp", Noted)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    kept = Kept()
    loaded(folder, RowTest(kept))
    (machine,) = kept.records
    kept.store(machine, RowFinding(5).as_record())
    loaded(folder, RowTest(kept))
    loaded(folder, None)
    assert started == [(8, False), (8, True), (5, False), (1, False)]
