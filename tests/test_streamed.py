"""What `expert_memory` gives, refuses and says, and that a resident model knows nothing of it."""

import gc
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from dsv4_mlx import streamed as streaming
from dsv4_mlx.errors import BackendError, UsageError
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.loading import load_model
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.sizing.expert_memory import expert_slots, few_slots, require_fitting
from dsv4_mlx.weights import reading
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from tests.model import streamed

k, E = streamed.SMALL.num_experts_per_tok, streamed.SMALL.n_routed_experts
FLASH_EXPERT = 13_369_344
"""Bytes of one of V4-Flash's experts, in FP4 with its scales."""
FLASH_LAYERS = FLASH.num_hidden_layers * FLASH_EXPERT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streamed.written(tmp_path_factory.mktemp("streamed"), "official")


def test_slots_are_whole_experts_of_every_layer(folder: Path) -> None:
    one = streamed.memory_of(folder, 1)
    for memory, slots in ((3 * one, 3), (4 * one - 1, 3), (4 * one, 4)):
        model = load_model(open_checkpoint(folder), backend="cpu", expert_memory=memory)
        assert model.streamed is not None
        assert model.streamed.facts.facts()["slots"] == slots
        assert model.streamed.facts.nbytes == slots * one <= memory


def test_flash_in_numbers() -> None:
    assert expert_slots(FLASH, FLASH_LAYERS, 18 * 10**9) == 31
    assert expert_slots(FLASH, FLASH_LAYERS, 10**12) == 256
    sentence = (
        r"^expected expert memory of at least 3\.45 GB, the 6 experts of a token in each layer, "
        r"but found 3 GB, which holds 5; give more, or convert the model with a smaller recipe\.$"
    )
    with pytest.raises(UsageError, match=sentence):
        expert_slots(FLASH, FLASH_LAYERS, 3 * 10**9)
    assert few_slots(FLASH, 16) == ""
    assert few_slots(FLASH, 15).startswith("expert memory holds 15 of 256 experts in each layer")
    assert few_slots(streamed.SMALL, 3) == ""
    require_fitting(FLASH, 9 * 10**9, 31, FLASH_LAYERS, 40 * 10**9, 32_768)
    require_fitting(FLASH, 9 * 10**9, 200, FLASH_LAYERS, None, 32_768)
    sentence = (
        r"of 25\.3 GB does not fit: .* two layers of 6\.85 GB and streams of 1\.07 GB while a "
        r"prompt is read.* at most 20\.\d GB"
    )
    with pytest.raises(UsageError, match=sentence):
        require_fitting(FLASH, 9 * 10**9, 44, FLASH_LAYERS, 40 * 10**9, 32_768)


def test_less_than_a_token_needs_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=f"the {k} experts of a token .* which holds {k - 1};"):
        streamed.load(folder, k - 1)


def test_what_does_not_fit_is_refused_before_anything_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "usable_memory", lambda: 2 * 10**9)
    monkeypatch.setattr("dsv4_mlx.loading.read_weights", lambda *_: pytest.fail("weights are read"))
    with pytest.raises(UsageError, match=r"does not fit: .* 2 GB may be used; give at most 0 GB"):
        streamed.load(folder, 3)


def test_few_slots_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(streaming, "few_slots", lambda config, slots: f"{slots} are few.")
    streamed.load(folder, 3, say=heard.append)
    assert heard == ["3 are few."]


def test_cuda_is_refused(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    memory = streamed.memory_of(folder, 3)
    plan = streaming.streamed_plan(checkpoint.config, plan_parameters(checkpoint), memory)
    assert plan is not None
    with pytest.raises(BackendError, match="found CUDA; leave expert_memory out"):
        plan.room_for("cuda", 0, None, "compact", None)


def test_experts_are_neither_loaded_nor_mapped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What MLX reads, and the process maps, has no byte of an expert."""
    read: list[str] = []
    reader = reading._Reader.__call__

    def noted(self: reading._Reader, entry: TensorEntry) -> mx.array:
        read.append(entry.name)
        return reader(self, entry)

    monkeypatch.setattr(reading._Reader, "__call__", noted)
    model = streamed.load(folder, 3)
    streamed.logits(model, list(range(2, 12)), 8)
    assert read and not [name for name in read if ".ffn.experts." in name]
    if sys.platform == "linux":
        assert str(folder) not in Path("/proc/self/maps").read_text()


def test_fingerprints_are_those_of_the_whole_model(folder: Path) -> None:
    one, other = streamed.load(folder, 3), streamed.load(folder, None)
    assert one.fingerprint == other.fingerprint
    assert one.weights_fingerprint == other.weights_fingerprint


def test_drafts_are_off(folder: Path) -> None:
    model = streamed.load(folder, 3)
    assert model.weights_elsewhere and model.drafts() is None


def test_memory_is_what_the_slots_take(folder: Path) -> None:
    """Measured: arrays there are, with five slots more in every layer."""
    sizes = []
    for slots in (2, 7):
        gc.collect()
        before = mx.get_active_memory()
        model = streamed.load(folder, slots)
        sizes.append(mx.get_active_memory() - before)
        assert model.streamed is not None
        del model
    # Allocations may be some pages larger than their arrays, and threads may let go of one late.
    one = streamed.memory_of(folder, 1)
    assert abs(sizes[1] - sizes[0] - 5 * one) < one / 2


def test_a_resident_model_imports_nothing_of_it(folder: Path) -> None:
    program = (
        "import sys, dsv4_mlx\n"
        "from dsv4_mlx.loading import load\n"
        "from dsv4_mlx.engine.engine import Engine\n"
        f"model, _ = load({str(folder)!r}, backend='cpu')\n"
        "session = Engine(model).session()\n"
        "session.sync([2, 3, 4])\n"
        "list(session.stream(2))\n"
        "print(*sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    of_it = {
        *("streamed", "whole_layers", "sizing.expert_memory"),
        *("model.slot_products", "model.streamed_experts", "model.streamed_model"),
        *("weights.expert_files", "weights.expert_slots", "weights.expert_store"),
    }
    imported = {name.removeprefix("dsv4_mlx.") for name in ran.stdout.split()}
    assert "model.experts" in imported and not imported & of_it
    root = Path(streaming.__file__).parent
    assert all((root / f"{name.replace('.', '/')}.py").is_file() for name in of_it)
