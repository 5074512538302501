"""The native recipe changes no value, and a folder that is not whole never looks whole."""

import json
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import safetensors

from convert import plan as conversion
from convert import writer
from convert.plan import DRAFT_FILE, plan_conversion
from convert.progress import ProgressDisplay
from convert.shards import ShardWriter
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.files.safetensors_writing import plan_array
from dsv4_mlx.loading import load
from dsv4_mlx.testing.checkpoints import TINY, edit_checkpoint, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.reading import read_weights

SMALL = TINY.replace(
    num_hidden_layers=3, compress_ratios=(0, 4, 128, 0), num_hash_layers=1, n_routed_experts=4
)


def small(folder: Path, config=SMALL, **options) -> Path:
    return write_tiny_checkpoint(folder, config, tokenizer=False, **options)


class Heard(ProgressDisplay):
    """Keeps the lines."""

    def __init__(self):
        self.lines: list[str] = []

    def say(self, line, event="note", **content):
        self.lines.append(line)


def convert(source: Path, destination: Path, *, resume=False, **options) -> list[str]:
    """Convert and return the progress lines."""
    heard = Heard()
    plan = plan_conversion(open_checkpoint(source), **options)
    writer.write(plan, destination, heard, resume=resume)
    return heard.lines


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its place."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weights_of(folder: Path, dtype: mx.Dtype) -> dict[str, mx.array]:
    checkpoint = open_checkpoint(folder)
    return dict(read_weights(checkpoint, plan_parameters(checkpoint), dtype))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("config", "options"),
    [
        (SMALL, {}),
        (SMALL, {"shards": 4}),
        (SMALL, {"base": True}),
        (SMALL, {"dspark": True}),
        (SMALL, {"transformers_names": True}),
        (SMALL.replace(q_lora_rank=200), {}),
    ],
    ids=["plain", "split", "base", "dspark", "transformers", "ragged"],
)
def test_converted_weights_are_bit_equal(tmp_path, config, options, dtype):
    source = small(tmp_path / "source", config, **options)
    convert(source, tmp_path / "out")
    before, after = weights_of(source, dtype), weights_of(tmp_path / "out", dtype)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype, name
        assert mx.array_equal(array, after[name]).item(), name


def test_plan_knows_every_byte_before_writing(tmp_path):
    source = small(tmp_path / "source", dspark=True)
    plan = plan_conversion(open_checkpoint(source))
    writer.write(plan, tmp_path / "out", ProgressDisplay())
    for shard in (*plan.shards, plan.drafts):
        entries = read_header(tmp_path / "out" / shard.file)
        assert sum(entry.nbytes for entry in entries.values()) == shard.nbytes
        assert (tmp_path / "out" / shard.file).stat().st_size == shard.file_bytes()


@pytest.mark.parametrize("recipe", ["native", "q4"])
def test_the_safetensors_library_reads_the_same_bytes(recipe, tmp_path):
    source = small(tmp_path / "source", dspark=True)
    convert(source, tmp_path / "out", recipe=recipe, max_shard_bytes=300_000)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2
    for path in shards:
        found = {
            name: (entry.dtype, list(entry.shape), b"".join(entry.chunks()))
            for name, entry in read_header(path).items()
        }
        assert found == {
            name: (one["dtype"], one["shape"], bytes(one["data"]))
            for name, one in safetensors.deserialize(path.read_bytes())
        }


def test_shards_respect_their_limit_and_hold_each_tensor_once(tmp_path):
    source = small(tmp_path / "source")
    convert(source, tmp_path / "out", max_shard_bytes=300_000)
    names: list[str] = []
    for path in sorted((tmp_path / "out").glob("model-*.safetensors")):
        entries = read_header(path)
        modules = {name.rpartition(".")[0] for name in entries}
        assert len(modules) == 1 or sum(entry.nbytes for entry in entries.values()) <= 300_000
        names += entries
    assert len(names) == len(set(names)) == len(weights_of(tmp_path / "out", mx.bfloat16))


def test_drafts_are_kept_byte_for_byte(tmp_path):
    source = small(tmp_path / "source", dspark=True)
    convert(source, tmp_path / "out")
    kept = read_header(tmp_path / "out" / DRAFT_FILE)
    original = {
        name: entry
        for name, entry in read_header(next(source.glob("*.safetensors"))).items()
        if name.startswith("mtp.")
    }
    assert kept.keys() == original.keys()
    for name, entry in original.items():
        assert (kept[name].dtype, kept[name].shape) == (entry.dtype, entry.shape)
        assert b"".join(kept[name].chunks()) == b"".join(entry.chunks())


def test_mtp_block_is_loaded_from_a_shard_of_its_own(tmp_path):
    convert(small(tmp_path / "source"), tmp_path / "out")
    assert not (tmp_path / "out" / DRAFT_FILE).exists()
    assert "mtp.0.e_proj.weight" in weights_of(tmp_path / "out", mx.bfloat16)
    for path in (tmp_path / "out").glob("model-*.safetensors"):
        assert len({name.startswith("mtp.") for name in read_header(path)}) == 1


def test_config_tells_mlx_how_each_matrix_is_packed(tmp_path):
    convert(small(tmp_path / "source"), tmp_path / "out")
    keys = json.loads((tmp_path / "out" / "config.json").read_text())
    packed = keys["quantization"]
    assert packed["model.layers.0.mlp.experts.down_proj"]["mode"] == "mxfp4"
    assert packed["model.layers.0.self_attn.q_a_proj"] == {
        "group_size": 32,
        "bits": 8,
        "mode": "mxfp8",
    }
    assert "quantization_config" not in keys
    assert open_checkpoint(tmp_path / "out").config == SMALL


def test_tokenizer_and_encoding_files_come_along(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL)
    (source / "encoding").mkdir()
    (source / "encoding" / "encoding.py").write_text("# the release's encoder\n")
    (source / "training_notes.bin").write_bytes(b"not wanted")
    convert(source, tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "encoding/encoding.py"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert not (tmp_path / "out" / "training_notes.bin").exists()


def test_summary_is_written_last_and_names_the_files(tmp_path):
    source = small(tmp_path / "source", dspark=True)
    lines = convert(source, tmp_path / "out")
    summary = json.loads((tmp_path / "out" / CONVERSION_FILE).read_text())
    assert summary["recipe"] == "native"
    assert len(summary["fingerprint"]) == 64
    for name, size in summary["file_bytes"].items():
        assert (tmp_path / "out" / name).stat().st_size == size
    assert "mtp.0.main_proj.weight" in summary["set_aside"]
    assert lines[-1].startswith("verified")
    newest = max((tmp_path / "out").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == CONVERSION_FILE


def test_both_folders_have_one_fingerprint_and_the_same_logits(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL)
    convert(source, tmp_path / "out")
    (first, _), (second, _) = load(source), load(tmp_path / "out")
    assert first.fingerprint == second.fingerprint
    tokens = mx.array([[5, 6, 7, 300, 2]])
    assert mx.array_equal(first(tokens), second(tokens)).item()


class Killed(Exception):
    """Stands for a signal in the middle of the work."""


@pytest.mark.parametrize(
    "moment",
    ["model-00001-of-", "model-00003-of-", "model.safetensors.index", "config.", "conversion."],
)
def test_killed_half_way_leaves_no_finished_folder(tmp_path, monkeypatch, moment):
    """Stop just before a file gets its final name."""
    source = small(tmp_path / "source")
    replace = os.replace

    def stop_or_replace(temporary, final):
        if Path(final).name.startswith(moment):
            raise Killed
        replace(temporary, final)

    monkeypatch.setattr("os.replace", stop_or_replace)
    with pytest.raises(Killed):
        convert(source, tmp_path / "out", max_shard_bytes=600_000)
    monkeypatch.undo()
    assert not (tmp_path / "out" / CONVERSION_FILE).exists()
    with pytest.raises(CheckpointError):
        load(tmp_path / "out")
    with pytest.raises(UsageError, match="no finished conversion"):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", max_shard_bytes=600_000, resume=True)
    convert(source, tmp_path / "uninterrupted", max_shard_bytes=600_000)
    assert contents(tmp_path / "out") == contents(tmp_path / "uninterrupted")


def test_a_folder_without_its_summary_is_unfinished(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL)
    convert(source, tmp_path / "out")
    (tmp_path / "out" / CONVERSION_FILE).unlink()
    with pytest.raises(CheckpointError, match="unfinished conversion"):
        load(tmp_path / "out")


def test_memory_stays_bounded(tmp_path):
    """Bytes pass through in chunks: no step holds a stacked matrix."""
    config = SMALL.replace(
        num_hidden_layers=1, compress_ratios=(0, 0), n_routed_experts=48, moe_intermediate_size=256
    )
    plan = plan_conversion(open_checkpoint(small(tmp_path / "source", config)))
    largest = max(tensor.nbytes for shard in plan.shards for tensor in shard.tensors)
    tracemalloc.start()
    writer.write(plan, tmp_path / "out", ProgressDisplay())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < largest


def test_a_damaged_result_is_not_marked_finished(tmp_path, monkeypatch):
    source = small(tmp_path / "source")
    plan = plan_conversion(open_checkpoint(source))
    write = ShardWriter.write

    def write_and_flip(self, shard, path):
        written = write(self, shard, path)
        if entry := read_header(path).get("model.embed_tokens.weight"):
            with open(path, "r+b") as file:
                file.seek(entry.start)
                file.write(b"\xff\xff")
        return written

    monkeypatch.setattr(ShardWriter, "write", write_and_flip)
    with pytest.raises(CheckpointError, match="does not hold what"):
        writer.write(plan, tmp_path / "out", ProgressDisplay())
    assert not (tmp_path / "out" / CONVERSION_FILE).exists()


def test_bad_values_stop_the_conversion(tmp_path):
    source = small(tmp_path / "source")
    name = "layers.0.ffn.experts.0.w1.scale"
    edit_checkpoint(source, {name: plan_array(name, "F8_E8M0", np.full((96, 4), 255, np.uint8))})
    with pytest.raises(CheckpointError, match=r"scale byte 255 \(NaN\)"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out" / CONVERSION_FILE).exists()


def test_a_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    source = small(tmp_path / "source")
    usage = SimpleNamespace(free=1000, total=1 << 40)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(UsageError, match=r"only 0\.0 MB free"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_recipe_and_converted_source_are_refused(tmp_path):
    source = small(tmp_path / "source")
    with pytest.raises(UsageError, match="expected one of: native"):
        plan_conversion(open_checkpoint(source), "smallest")
    convert(source, tmp_path / "out")
    with pytest.raises(UsageError, match="already converted"):
        conversion.plan_conversion(open_checkpoint(tmp_path / "out"))


@pytest.mark.slow
def test_mlx_lm_loads_the_converted_folder(tmp_path):
    from mlx_lm.utils import load_model as load_with_mlx_lm

    from dsv4_mlx.mlx_lm import Model, ModelArgs

    source = write_tiny_checkpoint(tmp_path / "source", SMALL)
    convert(source, tmp_path / "out", max_shard_bytes=600_000)
    theirs, _ = load_with_mlx_lm(
        tmp_path / "out", get_model_classes=lambda config: (Model, ModelArgs)
    )
    ours, _ = load(source, dtype=mx.bfloat16)
    tokens = mx.array([[5, 6, 7, 300, 2]])
    assert mx.allclose(theirs(tokens), ours(tokens), atol=1e-5).item()
