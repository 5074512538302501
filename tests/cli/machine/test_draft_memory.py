"""Draft blocks count in memory and are the first to go where it is short, which is said."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.environment import Environment
from cli.machine import memory
from cli.machine.doctor import report
from cli.machine.machine import Machine
from cli.machine.memory import Fit, check, drafts_here, wants_drafts
from cli.models import load_model
from cli.options import Options
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import UsageError
from dsv4_mlx.loading import load_model as read_model
from dsv4_mlx.release.config import DSpark
from dsv4_mlx.sizing.machines import memory_needed
from dsv4_mlx.sizing.weight_bytes import (
    block_bytes,
    draft_bytes,
    draft_head_bytes,
    weight_bytes,
)
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import ModelFolder, open_checkpoint, open_folder
from tests.cli.machines import GIB, linux, mac
from tests.cli.running import Stream, run

# Draft blocks larger than the granularity of a machine's memory, 1 KiB.
CONFIG = TINY.replace(num_hidden_layers=1, compress_ratios=(128, 0), num_hash_layers=0)
STAGES = CONFIG.replace(dspark=DSpark(5, 511, (0, 0, 0), 32), compress_ratios=(128, 0, 0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("drafts")
    configs = {"mtp": CONFIG, "dspark": STAGES}
    return {kind: write_tiny_checkpoint(folder / kind, one) for kind, one in configs.items()}


def between(folder: Path, backend: str = "cpu") -> tuple[Machine, int]:
    """A machine that holds the model and half of its drafts; bytes of these."""
    checkpoint = open_checkpoint(folder)
    dense = 4 if backend == "cpu" else 2
    drafts = draft_bytes(checkpoint, dense=dense)
    weights = weight_bytes(checkpoint, dense=dense)
    bare = weights - drafts if checkpoint.config.draft_kind == "mtp" else weights
    needed = Fit(folder, checkpoint.config, bare, linux(1), backend).needed(memory.SHORT_CONTEXT)
    return linux((needed + drafts / 2) / GIB), drafts


def test_drafts_are_counted_and_go_first(folders: dict[str, Path]) -> None:
    for kind, folder in folders.items():
        machine, drafts = between(folder)
        fits = [
            Fit.of(open_checkpoint(folder), backend="cpu", machine=one, draft=kind)  # type: ignore[arg-type]
            for one in (machine, linux(64))
        ]
        assert [one.drafts for one in fits] == [0, drafts]
        assert [one.dropped for one in fits] == [drafts, 0]
        assert fits[1].weights == fits[0].weights + drafts
        check(open_folder(folder), backend="cpu", machine=machine)
        said = fits[0].dropped_sentence()
        assert said.startswith(f"drafts ({memory.size(drafts)}) are not loaded: with them the ")
        assert said.endswith("may be used here; replies are the same without.")
        assert fits[1].dropped_sentence() == ""
        with pytest.raises(UsageError, match="may be used here"):  # not even without them
            check(open_folder(folder), backend="cpu", machine=linux(1))


def test_on_a_gpu_the_head_of_drafts_counts_with_them(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsv4_mlx.about.about", lambda _: SimpleNamespace(backend="metal"))
    for folder in folders.values():
        checkpoint = open_checkpoint(folder)
        blocks, head = block_bytes(checkpoint), draft_head_bytes(checkpoint)
        assert head > 0 and draft_bytes(checkpoint) == blocks + head
        mtp = blocks if checkpoint.config.draft_kind == "mtp" else 0
        backbone = weight_bytes(checkpoint) - mtp
        small = linux((memory_needed(checkpoint.config, backbone, 8_192) + head / 2) / GIB)
        fits = [
            Fit.of(checkpoint, backend="metal", machine=replace(one, device=1))
            for one in (linux(64), small)
        ]
        assert [one.weights for one in fits] == [backbone + blocks + head, backbone]
        assert [one.dropped for one in fits] == [0, blocks + head]


def test_a_raised_limit_that_allows_drafts_is_named() -> None:
    one = Fit(Path("flash"), CONFIG, 90 * GIB, mac(128), "metal", dropped=10 * GIB)
    assert "`sudo sysctl iogpu.wired_limit_mb=" in one.dropped_sentence()
    assert "allows them, and replies are the same without." in one.dropped_sentence()


def test_stages_are_wanted_by_name_and_on_a_gpu() -> None:
    wanted = {
        (draft, backend): wants_drafts("dspark", draft, backend)  # type: ignore[arg-type]
        for draft in ("auto", "off", "lookup", "dspark")
        for backend in ("cpu", "metal")
    }
    assert {case for case, is_wanted in wanted.items() if is_wanted} == {
        ("auto", "metal"), ("dspark", "cpu"), ("dspark", "metal"),
    }  # fmt: skip
    assert wants_drafts("mtp", "off", "cpu")


def test_a_small_model_needs_no_figures(folders: dict[str, Path]) -> None:
    folder = open_folder(folders["dspark"])
    assert drafts_here(folder, "dspark", backend="cpu", machine=linux(64)) == (True, "")
    assert drafts_here(folder, "auto", backend="cpu", machine=linux(64)) == (False, "")


def opened(folder: ModelFolder, draft: str) -> Engine:
    return load_model(folder, replace(Options(), backend="cpu"), draft=draft)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["mtp", "dspark"])
def test_a_model_loads_without_drafts_and_says_why(
    folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(folders[kind])
    whole = opened(folder, kind)
    assert whole.drafting.not_loaded == "" and whole.drafting.why_off(kind) == ""  # type: ignore[arg-type]
    machine, _ = between(folders[kind])
    monkeypatch.setattr(memory, "read_machine", lambda: machine)
    engine = opened(folder, kind)
    assert engine.model.drafts() is None
    assert engine.model.fingerprint == whole.model.fingerprint
    said = engine.drafting.not_loaded
    assert said.startswith("drafts (") and engine.drafting.why_off(kind) == said.rstrip(".")  # type: ignore[arg-type]
    assert engine.drafting.why_off("auto") == said.rstrip(".")
    engine.drafting.use(kind)  # type: ignore[arg-type]
    assert engine.drafting.drafts is None
    with pytest.raises(UsageError, match="expected a model with"):
        engine.drafting.use("dspark" if kind == "mtp" else "mtp")
    replies = []
    for one in (whole, engine):
        one.drafting.use(kind)  # type: ignore[arg-type]
        session = one.session()
        session.sync([3, 5, 7, 9])
        replies.append([(token.id, token.logprob) for token in session.stream(6, stop_ids=())])
    assert replies[0] == replies[1]


def test_json_and_draft_say_why(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    machine, _ = between(folders["mtp"])
    monkeypatch.setattr(memory, "read_machine", lambda: machine)
    model = ("--model", folders["mtp"], "--backend", "cpu", "--max-tokens", "2")
    done = run(*model, "-p", "hi", "--json", "--draft", "mtp")
    said = json.loads(done.stdout.splitlines()[-1])["drafts_not_loaded"]
    assert said.startswith("drafts (") and f"[{said}]" in done.stderr
    shown = run(*model, typed="hi\n/draft\n/draft mtp\n")
    talk = shown.stdout + shown.stderr
    assert f"[drafts: auto, off: {said.rstrip('.')}]" in talk
    assert f"[drafts: mtp, off: {said.rstrip('.')}]" in talk


def test_draft_says_what_auto_does_on_a_cpu(folders: dict[str, Path]) -> None:
    said = "a block of tokens costs what they cost one by one"
    for kind, why in (("mtp", f"on a CPU {said}"), ("dspark", "DSpark's stages are not loaded; ")):
        line = ("--model", folders[kind], "--backend", "cpu", "--max-tokens", "1")
        shown = run(*line, typed="hi\n/draft\n")
        talk = shown.stdout + shown.stderr
        assert f"[drafts: auto, off: {why}" in talk


def test_a_gpu_drafts_where_rows_are_exact(folders: dict[str, Path]) -> None:
    model = read_model(open_checkpoint(folders["dspark"]), backend="cpu", drafts=True)
    engine = Engine(model)
    model.kernel_plan = lambda: {"backend": "metal"}  # type: ignore[method-assign]
    assert engine.drafting.why_off("auto").startswith("no kernel here reads several rows")
    model.use_exact_rows(8)
    assert engine.drafting.why_off("auto") == ""
    model.use_exact_rows(1)
    model.drop_stages()
    assert engine.drafting.why_off("auto").startswith("DSpark's stages are not loaded; ")
    assert not model.stages


def test_the_doctor_counts_them(folders: dict[str, Path], tmp_path: Path) -> None:
    variables = {"TERM": "xterm", "DSV4_HOME": str(tmp_path)}
    environment = Environment(Stream(), Stream(), Stream(), variables)
    for kind, folder in folders.items():
        machine, drafts = between(folder)
        for one, loaded in ((machine, False), (linux(64), kind == "mtp")):
            found = report(environment, folder, backend="cpu", machine=one)
            facts = {"kind": kind, "bytes": drafts, "loaded": loaded}
            assert found.facts["model"]["drafts"] == facts
            assert sum(line.startswith("drafts") for _, line in found.lines) == 1
