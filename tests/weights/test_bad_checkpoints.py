"""Damaged and foreign folders: each ends in one sentence that names the damage."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import CheckpointError, ConfigError, Dsv4Error
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.files.safetensors_writing import plan_array, write_file
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.testing.checkpoints import TINY, edit_checkpoint, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import INDEX_FILE, open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.reading import read_weights

SMALL = TINY.replace(
    num_hidden_layers=2,
    compress_ratios=(0, 128, 0),
    num_hash_layers=1,
    n_routed_experts=4,
    vocab_size=64,
)
SHARD = "model-00001-of-00003.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An undamaged official folder of three shards."""
    folder = tmp_path_factory.mktemp("whole")
    return write_tiny_checkpoint(folder, SMALL, shards=3, tokenizer=False)


def load_weights(folder: Path) -> None:
    """Everything that loading does with the files."""
    checkpoint = open_checkpoint(folder)
    for _ in read_weights(checkpoint, plan_parameters(checkpoint), mx.float32):
        pass


def test_the_undamaged_folder_loads(whole):
    load_weights(whole)


def replaced(name: str, dtype: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: edit_checkpoint(folder, {name: plan_array(name, dtype, array)})


def dropped(name: str) -> Callable[[Path], None]:
    return lambda folder: edit_checkpoint(folder, {name: None})


def json_changed(file: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return damage


def header_changed(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Edit the JSON header of the first shard, leaving the data behind it as it is."""

    def damage(folder: Path) -> None:
        content = (folder / SHARD).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        (folder / SHARD).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return damage


def truncated(folder: Path) -> None:
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content[:-100])


def huge_header(folder: Path) -> None:
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(struct.pack("<Q", 1 << 60) + content[8:])


def overlapping(header: dict) -> None:
    first, second = [entry for entry in header.values() if entry["dtype"] == "F8_E8M0"][:2]
    size = second["data_offsets"][1] - second["data_offsets"][0]
    start = first["data_offsets"][0]
    second["data_offsets"] = [start, start + size]


def doubled_key(folder: Path) -> None:
    content = (folder / SHARD).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    text = content[8 : 8 + length].rstrip()
    text = b'{"embed.weight":{},' + text[1:]
    (folder / SHARD).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def outside(content: dict) -> None:
    content["weight_map"]["embed.weight"] = "../elsewhere.safetensors"


def swapped(content: dict) -> None:
    content["weight_map"]["embed.weight"] = "model-00003-of-00003.safetensors"


def stored_twice(folder: Path) -> None:
    (folder / INDEX_FILE).unlink()
    entry = read_header(folder / SHARD)["embed.weight"]
    plan = plan_array("embed.weight", "BF16", entry.read())
    write_file(folder / "model-extra.safetensors", [plan])


def two_spellings(folder: Path) -> None:
    name = "model.embed_tokens.weight"
    edit_checkpoint(folder, {name: plan_array(name, "BF16", np.zeros((64, 128), np.uint16))})


def without_index(folder: Path) -> None:
    (folder / INDEX_FILE).unlink()
    (folder / SHARD).unlink()


def file_written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def removed(*patterns: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()

    return damage


WQ_A = "layers.0.attn.wq_a"
EXPERT = "layers.1.ffn.experts.2.w1"
TABLE = "layers.0.ffn.gate.tid2eid"

DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated shard": (truncated, rf"{SHARD} is cut short: .* ends at byte \d+"),
    "missing shard": (removed(SHARD), rf"1 of 3 shards are missing .*{SHARD}"),
    "missing shard, no index": (without_index, rf"1 of 3 shards are missing .*{SHARD}"),
    "empty shard": (file_written(SHARD, b""), rf"{SHARD} is no safetensors file"),
    "Git LFS pointer": (file_written(SHARD, b"version https://git-lfs"), "Git LFS pointer"),
    "huge header": (huge_header, "claims a header of 1152921504606846976 bytes"),
    "header is not JSON": (
        file_written(SHARD, struct.pack("<Q", 4) + b"nope"),
        "a header that is not valid JSON",
    ),
    "header lists a name twice": (doubled_key, r"the key 'embed\.weight' twice"),
    "overlapping tensors": (header_changed(overlapping), "overlaps the tensor before it"),
    "offsets do not fit the shape": (
        header_changed(lambda header: header["embed.weight"].update(shape=[1, 1])),
        r"embed\.weight of shape \[1, 1\] .* does not fit its byte range",
    ),
    "negative shape": (
        header_changed(lambda header: header["embed.weight"].update(shape=[-64, -128])),
        "does not fit its byte range",
    ),
    "malformed header entry": (
        header_changed(lambda header: header["embed.weight"].pop("dtype")),
        r"header entry of embed\.weight is malformed",
    ),
    "unsupported dtype": (
        header_changed(lambda header: header["embed.weight"].update(dtype="F4")),
        r"embed\.weight has dtype F4",
    ),
    "index leaves the folder": (json_changed(INDEX_FILE, outside), r"in '\.\./elsewhere"),
    "index and files disagree": (json_changed(INDEX_FILE, swapped), "different checkpoints"),
    "index without weights": (
        json_changed(INDEX_FILE, lambda content: content.update(weight_map={})),
        "has no weight_map",
    ),
    "index names an absent tensor": (
        json_changed(INDEX_FILE, lambda content: content["weight_map"].update({"x": SHARD})),
        rf"{SHARD} lacks x",
    ),
    "index is not JSON": (file_written(INDEX_FILE, b"{"), f"{INDEX_FILE} is not valid JSON"),
    "stored twice": (stored_twice, r"embed\.weight is stored twice"),
    "two spellings of one tensor": (two_spellings, "both given for one place"),
    "wrong shape": (
        replaced(f"{WQ_A}.weight", "F8_E4M3", np.zeros((95, 128), np.uint8)),
        rf"{WQ_A}\.weight .* shape \[95, 128\], expected F8_E4M3",
    ),
    "wrong dtype": (
        replaced("norm.weight", "F16", np.ones(128, np.float16)),
        r"norm\.weight .* has dtype F16 .* expected BF16 or F32",
    ),
    "unpacked FP8 matrix with scales": (
        replaced(f"{WQ_A}.weight", "BF16", np.zeros((96, 128), np.uint16)),
        rf"{WQ_A}\.scale .* belongs to a packed matrix, but .*q_a_proj is also there in BF16",
    ),
    "one expert unpacked": (
        replaced(f"{EXPERT}.weight", "BF16", np.zeros((96, 128), np.uint16)),
        r"belongs to a packed matrix, but .*gate_up_proj is also there in BF16",
    ),
    "nested metadata": (
        header_changed(lambda header: header.update(__metadata__={"a": {"b": []}})),
        "__metadata__ is .*, expected an object of texts",
    ),
    "deep header": (
        file_written(SHARD, struct.pack("<Q", 200_000) + b"[" * 200_000),
        "a header that .* nests deeper than 100 levels",
    ),
    "Git LFS pointer of the index": (
        file_written(INDEX_FILE, b"version https://git-lfs.github.com/spec/v1"),
        f"{INDEX_FILE} is a Git LFS pointer .* `git lfs pull`",
    ),
    "Git LFS pointer of config.json": (
        file_written("config.json", b"version https://git-lfs.github.com/spec/v1"),
        r"config\.json is a Git LFS pointer .* `git lfs pull`",
    ),
    "NaN scale of FP8": (
        replaced(f"{WQ_A}.scale", "F8_E8M0", np.full((1, 1), 255, np.uint8)),
        rf"{WQ_A}\.scale .* the scale byte 255 \(NaN\)",
    ),
    "NaN scale of FP4": (
        replaced(f"{EXPERT}.scale", "F8_E8M0", np.full((96, 4), 255, np.uint8)),
        rf"{EXPERT}\.scale .* the scale byte 255 \(NaN\)",
    ),
    "scale out of the exact range": (
        replaced(f"{WQ_A}.scale", "F8_E8M0", np.full((1, 1), 2, np.uint8)),
        rf"{WQ_A}\.scale .* the scale byte 2, expected 3 to 246",
    ),
    "NaN float scale": (
        replaced(f"{WQ_A}.scale", "F32", np.full((1, 1), np.nan, np.float32)),
        rf"{WQ_A}\.scale .* the scale nan",
    ),
    "negative float scale": (
        replaced(f"{WQ_A}.scale", "F32", np.full((1, 1), -1, np.float32)),
        rf"{WQ_A}\.scale .* the scale -1\.0",
    ),
    "NaN among the float weights": (
        replaced("layers.0.attn.attn_sink", "F32", np.full(4, np.nan, np.float32)),
        r"layers\.0\.attn\.attn_sink .* not finite",
    ),
    "unknown tensor": (
        replaced("layers.0.attn.wq_c.weight", "F32", np.ones(4, np.float32)),
        r"layers\.0\.attn\.wq_c\.weight in .* is no tensor of the model",
    ),
    "a layer too many": (
        replaced("layers.2.attn_norm.weight", "BF16", np.ones(128, np.uint16)),
        r"layers\.2\.attn_norm\.weight in .* is no tensor of the model",
    ),
    "an expert too many": (
        replaced("layers.1.ffn.experts.4.w1.weight", "I8", np.zeros((96, 64), np.int8)),
        r"experts\.4\.w1\.weight .* is one expert more",
    ),
    "routing bias of a hash layer": (
        replaced("layers.0.ffn.gate.bias", "F32", np.zeros(4, np.float32)),
        r"layers\.0\.ffn\.gate\.bias in .* is no tensor of the model",
    ),
    "missing tensor": (dropped(f"{WQ_A}.weight"), rf"{WQ_A}\.weight is missing"),
    "missing scale": (dropped(f"{WQ_A}.scale"), rf"{WQ_A}\.scale is missing"),
    "missing expert": (
        dropped(f"{EXPERT}.weight"),
        rf"{EXPERT}\.weight is missing \(7 of 8 parts of .*gate_up_proj are there\)",
    ),
    "expert of no model": (
        replaced(TABLE, "I64", np.full((64, 2), 4, np.int64)),
        r"tid2eid .* holds an expert outside 0 to 3",
    ),
    "negative expert": (
        replaced(TABLE, "I64", np.full((64, 2), -1, np.int64)),
        r"tid2eid .* holds an expert outside 0 to 3",
    ),
    "no config.json": (removed("config.json"), "not a model folder: it has no config.json"),
    "config.json is not JSON": (file_written("config.json", b"{"), "config.json is not valid"),
    "config.json is a list": (file_written("config.json", b"[]"), "config.json holds a list"),
    "no weights": (removed("*.safetensors", INDEX_FILE), r"no \*\.safetensors files"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_in_one_sentence(damage, whole, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    inflict, sentence = DAMAGES[damage]
    inflict(folder)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_weights(folder)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


CONFIGS = {
    "unknown key": ({"moe_flux": 3}, "moe_flux"),
    "V4.1": ({"model_type": "deepseek_v41"}, r"V4\.1"),
    "vision": ({"vision_n_layers": 3}, "vision"),
    "another quantisation": (
        {"quantization_config": {"quant_method": "modelopt", "moe_quant_algo": "NVFP4"}},
        "NVFP4",
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_other_models_are_refused(kind, whole, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    keys, sentence = CONFIGS[kind]
    json_changed("config.json", lambda content: content.update(keys))(folder)
    with pytest.raises(ConfigError, match=sentence):
        load_weights(folder)


def test_a_path_that_is_no_folder(tmp_path, whole):
    for path in (tmp_path / "absent", whole / "config.json"):
        with pytest.raises(CheckpointError, match="is not a folder"):
            open_checkpoint(path)


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match="not a model folder"):
        open_checkpoint(tmp_path)


def test_every_error_is_one_of_ours():
    assert issubclass(CheckpointError, Dsv4Error)
    assert issubclass(ConfigError, Dsv4Error)


def test_weights_of_another_size_do_not_reach_the_model(whole, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    json_changed("config.json", lambda content: content.update(hidden_size=256))(folder)
    with pytest.raises(CheckpointError, match="expected BF16 and"):
        load_model(
            open_checkpoint(folder), dtype=mx.float32, numerics=Numerics.PLAIN, backend="cpu"
        )
