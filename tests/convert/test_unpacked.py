"""Re-uploads that hold packed matrices multiplied out to BF16: kept as they are, or quantized."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from convert.app import main
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.files.safetensors_writing import TensorPlan, plan_array
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.testing.checkpoints import (
    TINY,
    dequantized_tensors,
    edit_checkpoint,
    write_tiny_checkpoint,
)
from dsv4_mlx.weights.checkpoint import open_checkpoint

SMALL = TINY.replace(
    num_hidden_layers=2,
    compress_ratios=(0, 128, 0),
    num_hash_layers=1,
    n_routed_experts=4,
)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("packed") / "model", SMALL)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with every packed matrix in BF16, which holds its values exactly."""
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("unpacked") / "model", SMALL)
    values, changes = dequantized_tensors(folder), dict[str, TensorPlan | None]()
    for name in tensors_of(folder):
        stem = name.removesuffix(".scale")
        if stem != name:
            bits = values[f"{stem}.weight"].astype(np.float32).view(np.uint32)
            assert not (bits & 0xFFFF).any()
            array = (bits >> 16).astype(np.uint16)
            changes |= {name: None, f"{stem}.weight": plan_array(f"{stem}.weight", "BF16", array)}
    edit_checkpoint(folder, changes)
    return folder


def tensors_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every tensor of a folder, by name."""
    return {
        name: b"".join(entry.chunks())
        for file in sorted(folder.glob("*.safetensors"))
        for name, entry in read_header(file).items()
    }


def logits(folder: Path) -> np.ndarray:
    model = load_model(
        open_checkpoint(folder), dtype=mx.float32, numerics=Numerics.PLAIN, backend="cpu"
    )
    return np.array(model(mx.array([list(range(3, 35))])))


def test_a_native_conversion_keeps_them(unpacked: Path, tmp_path: Path) -> None:
    assert main([str(unpacked), str(tmp_path / "out")]) == 0
    assert main(["verify", str(tmp_path / "out"), "--against", str(unpacked)]) == 0
    assert np.array_equal(logits(tmp_path / "out"), logits(unpacked))
    dtypes = {entry.dtype for entry in open_checkpoint(tmp_path / "out").tensors.values()}
    assert dtypes == {"BF16", "F32", "I32"}


def test_a_recipe_gives_what_it_gives_of_the_release(
    packed: Path, unpacked: Path, tmp_path: Path
) -> None:
    for source, name in ((packed, "one"), (unpacked, "other")):
        assert main([str(source), str(tmp_path / name), "--recipe", "q4"]) == 0
    one, other = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "other")
    quantized = [name for name in other if f"{name.removesuffix('weight')}biases" in other]
    assert quantized and all(one[name] == other[name] for name in quantized)


def test_inspect_says_what_they_are(unpacked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(unpacked)]) == 0
    said = capsys.readouterr().out
    assert "bf16" in said and "mxfp" not in said
