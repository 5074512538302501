"""A difference that is planted in a model, a file or the host's work changes the fact it should."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from benchmarks import launches
from benchmarks.unchanged.probes import addresses, graph, host, kept, logits
from dsv4_mlx.engine.session import Session
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint

SMALL = TINY.replace(
    num_hidden_layers=3, num_hash_layers=1, n_routed_experts=4, compress_ratios=(0, 4, 128, 0)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("small"), SMALL))


@pytest.fixture(scope="module")
def files(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("kept") / "files"
    kept.write(folder, "compact", str(into))
    return into


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    assert list(before) == list(after)
    return {name for name in before if before[name] != after[name]}


def planted(patch: pytest.MonkeyPatch, holder: Any, name: str, change: Callable[..., Any]) -> None:
    """`change` gets what the method of this name returns."""
    method = getattr(holder, name)
    patch.setattr(holder, name, lambda self, *a, **k: change(method(self, *a, **k)))


@pytest.mark.slow
def test_the_same_model_gives_the_same_facts(folder: str) -> None:
    assert changed(logits.logits(folder), logits.logits(folder)) == set()
    assert changed(logits.sessions(folder), logits.sessions(folder)) == set()


@pytest.mark.slow
def test_one_bit_of_the_logits_is_found(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = logits.logits(folder)
    monkeypatch.setattr(logits, "_loaded", one_bit_off)
    assert changed(before, logits.logits(folder)) >= {"whole", "odd chunks", "two rows", "MTP"}


def one_bit_off(*arguments: Any) -> Model:
    """The model with the last bit of one weight of its head turned over."""
    model = LOADED(*arguments)
    weight = model.lm_head.weight.view(mx.uint32)
    weight[7, 0] = weight[7, 0] ^ mx.array(1, mx.uint32)
    model.lm_head.weight = weight.view(mx.float32)
    return model


LOADED = logits._loaded


def test_a_parameter_that_is_renamed_or_of_another_value_is_found(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = logits.parameters(folder)
    monkeypatch.setattr(logits, "_loaded", one_bit_off)
    assert changed(before, logits.parameters(folder)) == {"values"}

    def renamed(*arguments: Any) -> Model:
        model = LOADED(*arguments)
        model.head = model.lm_head
        return model

    monkeypatch.setattr(logits, "_loaded", renamed)
    assert "names, shapes, dtypes" in changed(before, logits.parameters(folder))


@pytest.mark.slow
def test_a_rewind_that_ends_elsewhere_is_found(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = logits.sessions(folder)
    planted(monkeypatch, Session, "rewind", lambda offset: offset - 1)
    assert changed(before, logits.sessions(folder)) == {"rewound"}


def test_one_more_launch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(launches.MODELS, "flash", SMALL)
    case = {"model": "flash", "backend": "metal", "context": 511}
    before = graph.graphs(**case)
    assert before["launches"] > 50 and before["nodes"].count("CustomKernel") > 10
    planted(monkeypatch, Model, "last_logits", mx.exp)
    after = graph.graphs(**case)
    assert after["launches"] == before["launches"] + 1
    assert changed(before, after) == {"launches", "launches per layer", "nodes"}


def test_files_of_every_format_are_read_and_damaged_ones_are_refused(
    folder: str, files: Path
) -> None:
    facts = kept.read(folder, "compact", str(files))
    refused = {name for name, fact in facts.items() if fact.startswith("CacheError: ")}
    assert refused == {name for name in facts if name.startswith("bad ")} and len(refused) == 14
    good = {"good whole", "good without places", "good beginning", "good version 2"}
    assert set(facts) - refused == good
    assert "Größe 你好" in facts["good whole"]


@pytest.mark.slow
def test_a_file_that_leads_elsewhere_is_found(folder: str, files: Path) -> None:
    before = kept.read(folder, "compact", str(files))
    arrays, header = mx.load(
        str(files / "good version 2.kv"), format="safetensors", return_metadata=True
    )
    arrays["2.window"] = arrays["2.window"][:, ::-1]
    kept._save(files / "good version 2.kv", arrays, header)
    assert changed(before, kept.read(folder, "compact", str(files))) == {"good version 2"}


def test_what_this_commit_writes_it_reads(folder: str, tmp_path: Path) -> None:
    facts = kept.own(folder, "compact", str(tmp_path / "own.kv"))
    assert facts["own format"].startswith("{'note': 'kept'}\n")


@pytest.mark.slow
def test_one_more_call_per_token_is_counted(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.work(folder, "compact")
    assert before == host.work(folder, "compact")
    planted(monkeypatch, Model, "__call__", lambda logits: logits)
    after = host.work(folder, "compact")
    # The planted method, and the function that it hands the logits to.
    assert after["Python calls"] == before["Python calls"] + 2
    assert after["bytecodes"] > before["bytecodes"]


def test_a_name_is_found_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert addresses.first("dsv4_mlx.nowhere:TINY", "dsv4_mlx.testing.checkpoints:TINY") is TINY
    with pytest.raises(SystemExit, match=r"^expected one of dsv4_mlx\.model\.v4:Absent but this"):
        addresses.first("dsv4_mlx.model.v4:Absent")
