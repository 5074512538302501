"""What is read and what is refused: shapes in which people have these files on disk."""

import json
from pathlib import Path

import numpy as np
import pytest

from convert.app import main
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.files.safetensors_writing import TensorPlan
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.testing.checkpoints import TINY, edit_checkpoint, write_tiny_checkpoint

SMALL = TINY.replace(
    num_hidden_layers=1, compress_ratios=(4, 0), num_hash_layers=0, n_routed_experts=2
)


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_a_hub_cache_of_links_is_read(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL, shards=2, tokenizer=False)
    assert main([str(source), str(tmp_path / "plain")]) == 0
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        path.rename(tmp_path / "blobs" / f"{number:064x}")
        (tmp_path / "snapshot" / path.name).symlink_to(f"../blobs/{number:064x}")
    assert main([str(tmp_path / "snapshot"), str(tmp_path / "linked")]) == 0
    assert shards_of(tmp_path / "plain") == shards_of(tmp_path / "linked")


def test_experts_may_be_called_unsigned(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL, tokenizer=False)
    assert main([str(source), str(tmp_path / "signed")]) == 0
    entries = read_header(next(source.glob("*.safetensors")))
    changes = {}
    for name, entry in entries.items():
        if entry.dtype == "I8":
            data = entry.read().view(np.uint8)
            changes[name] = TensorPlan(name, "U8", entry.shape, lambda data=data: [data.tobytes()])
    assert changes
    edit_checkpoint(source, changes)
    assert main([str(source), str(tmp_path / "unsigned")]) == 0
    assert shards_of(tmp_path / "signed") == shards_of(tmp_path / "unsigned")


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_sharding_of_the_source_leaves_no_trace(tmp_path, shards):
    for name, count in (("one", 1), ("many", shards)):
        source = write_tiny_checkpoint(tmp_path / name, SMALL, shards=count, tokenizer=False)
        assert main([str(source), str(tmp_path / f"out-{name}")]) == 0
    assert shards_of(tmp_path / "out-one") == shards_of(tmp_path / "out-many")


@pytest.mark.parametrize(
    ("file", "sentence"),
    [("model-q4.gguf", "is a GGUF file"), ("pytorch_model.bin", "is a pickle")],
)
def test_weights_of_other_programs_are_refused(tmp_path, file, sentence, capsys):
    (tmp_path / "config.json").write_text(json.dumps(keys_of(SMALL)))
    (tmp_path / file).touch()
    assert main([str(tmp_path), str(tmp_path / "out"), "--dry-run"]) == 1
    assert f"{file} {sentence}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_type": "deepseek_v41"}, "V4.1"),
        ({"vision_n_layers": 3}, "vision"),
        ({"quantization_config": {"quant_method": "modelopt", "moe_quant_algo": "NVFP4"}}, "NVFP4"),
    ],
)
def test_look_alikes_are_refused(tmp_path, keys, words, capsys):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL, tokenizer=False)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | keys))
    assert main([str(source), str(tmp_path / "out")]) == 1
    assert words in capsys.readouterr().err


def test_a_partial_download_names_what_is_missing(tmp_path, capsys):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL, shards=4, tokenizer=False)
    (source / "model-00003-of-00004.safetensors").unlink()
    assert main([str(source), str(tmp_path / "out")]) == 1
    assert "1 of 4 shards are missing" in (said := capsys.readouterr().err)
    assert "model-00003-of-00004.safetensors" in said
