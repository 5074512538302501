"""Damaged checkpoints by the hundred: a sentence each, or a model that is right."""

import json
import random
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from convert.app import main
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, INDEX_FILE, open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.reading import read_weights

SMALL = TINY.replace(
    num_hidden_layers=1,
    compress_ratios=(4, 0),
    num_hash_layers=1,
    n_routed_experts=2,
    vocab_size=64,
    num_nextn_predict_layers=0,
)
MEMORY_LIMIT = 64 << 20
Mutation = Callable[[Path, random.Random], None]


def header_of(path: Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def rewrite(path: Path, header: str, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header.encode())) + header.encode() + data)


def shard(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(folder.glob("*.safetensors")))


def edited(change: Callable[[dict, random.Random], None]) -> Mutation:
    """A change of one shard's header, its data left alone."""

    def mutate(folder: Path, rng: random.Random) -> None:
        path = shard(folder, rng)
        header, data = header_of(path)
        change(header, rng)
        rewrite(path, json.dumps(header), data)

    return mutate


def truncated(folder: Path, rng: random.Random) -> None:
    path = shard(folder, rng)
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def header_bit(folder: Path, rng: random.Random) -> None:
    path = shard(folder, rng)
    content = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    content[rng.randrange(8 + length)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def huge_length(folder: Path, rng: random.Random) -> None:
    path = shard(folder, rng)
    length = rng.choice([1 << 63, (1 << 64) - 1, 100_000_001, 99_999_999, 1 << 40, 0, 1])
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])


def wrong_dtype(header: dict, rng: random.Random) -> None:
    entry = rng.choice(list(header.values()))
    others = {"BF16", "F32", "F16", "F8_E4M3", "F8_E8M0", "I64", "I32", "F4", "", None, 7, "BOOL"}
    entry["dtype"] = rng.choice(sorted(others - {entry["dtype"]}, key=str))


def moved(header: dict, rng: random.Random) -> None:
    entry = rng.choice(list(header.values()))
    shift = rng.choice([-1, 1, 8, -8, 1 << 20, 1 << 62])
    entry["data_offsets"] = [offset + shift for offset in entry["data_offsets"]]


def reshaped(header: dict, rng: random.Random) -> None:
    entry = rng.choice(list(header.values()))
    shapes = [[], [0], [-1, -1], [1 << 62, 1 << 62], [*entry["shape"], 1], entry["shape"][:-1]]
    entry["shape"] = rng.choice(
        [shape for shape in shapes if shape != entry["shape"]]
        + [None, "wide", [0.5], [True], {}, [[]]]
    )


def dropped(header: dict, rng: random.Random) -> None:
    del header[rng.choice(sorted(header))]


def scale_dropped(header: dict, rng: random.Random) -> None:
    del header[rng.choice([name for name in header if name.endswith(".scale")] or sorted(header))]


def renamed(header: dict, rng: random.Random) -> None:
    name = rng.choice(sorted(header))
    new = rng.choice([name + "x", name[:-1], "layers.9." + name, "", "mtp." + name, "a" * 70_000])
    header[new] = header.pop(name)


def odd_entry(header: dict, rng: random.Random) -> None:
    header[rng.choice(sorted(header))] = rng.choice([None, [], 3, "x", {}, {"dtype": "F32"}])


def doubled(folder: Path, rng: random.Random) -> None:
    path = shard(folder, rng)
    header, data = header_of(path)
    name = rng.choice(sorted(header))
    text = json.dumps(header)
    rewrite(path, f"{{{json.dumps(name)}: {json.dumps(header[name])}, {text[1:]}", data)


def nested(folder: Path, rng: random.Random) -> None:
    path = shard(folder, rng)
    _, data = header_of(path)
    rewrite(path, "[" * rng.choice([1, 5_000, 200_000]), data)


ODD_PLACES = [
    *("../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", None, 3, "x.gguf"),
    *("model.bin", "..\\model.safetensors", "absent.safetensors", "model\0.safetensors"),
]


def index_edited(folder: Path, rng: random.Random) -> None:
    path = folder / INDEX_FILE
    content = json.loads(path.read_text())
    name = rng.choice(sorted(content["weight_map"]))
    content["weight_map"][name] = rng.choice(ODD_PLACES)
    path.write_text(json.dumps(content))


def index_truncated(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice([INDEX_FILE, "config.json"])
    text = path.read_bytes().rstrip()
    path.write_bytes(text[: rng.randrange(len(text) - 1)])


def file_lost(folder: Path, rng: random.Random) -> None:
    shard(folder, rng).unlink()
    if rng.random() < 0.5:
        (folder / INDEX_FILE).unlink()


def not_a_file(folder: Path, rng: random.Random) -> None:
    path = shard(folder, rng)
    path.unlink()
    if rng.random() < 0.5:
        path.mkdir()
    else:
        path.symlink_to(folder / "absent")


def foreign(folder: Path, rng: random.Random) -> None:
    path = shard(folder, rng)
    path.write_bytes(rng.choice([b"GGUF\3\0\0\0" + bytes(64), b"PK\3\4" + bytes(64), b"\x80\4."]))


MUTATIONS: dict[str, Mutation] = {
    "truncated": truncated,
    "header bit": header_bit,
    "huge header length": huge_length,
    "wrong dtype": edited(wrong_dtype),
    "moved": edited(moved),
    "reshaped": edited(reshaped),
    "dropped": edited(dropped),
    "scale dropped": edited(scale_dropped),
    "renamed": edited(renamed),
    "odd entry": edited(odd_entry),
    "doubled": doubled,
    "nested": nested,
    "index edited": index_edited,
    "index truncated": index_truncated,
    "file lost": file_lost,
    "not a file": not_a_file,
    "foreign": foreign,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return write_tiny_checkpoint(folder, SMALL, shards=3, tokenizer=False)


def weights_of(folder: Path) -> dict[str, mx.array]:
    checkpoint = open_checkpoint(folder)
    return dict(read_weights(checkpoint, plan_parameters(checkpoint), mx.bfloat16))


def survive(source: Path, folder: Path, kind: str, seed: int, capsys) -> None:
    """Convert one mutation; either a sentence and no finished folder, or the right values."""
    rng = random.Random(f"{kind} {seed}")
    mutated, out = folder / "mutated", folder / "out"
    shutil.copytree(source, mutated)
    MUTATIONS[kind](mutated, rng)
    status = main([str(mutated), str(out)])
    said = capsys.readouterr().err.splitlines()[-1]
    if status:
        assert status in (1, 2) and said.startswith("error: ") and said.endswith("."), said
        assert not (out / CONVERSION_FILE).exists()
    else:
        right, made = weights_of(source), weights_of(out)
        assert right.keys() == made.keys(), kind
        assert all(mx.array_equal(right[name], made[name]).item() for name in right), kind
    shutil.rmtree(mutated)
    shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_mutation_ends_in_a_sentence_or_in_the_right_model(kind, source, tmp_path, capsys):
    for seed in range(18):
        survive(source, tmp_path, kind, seed, capsys)


@pytest.mark.parametrize("kind", ["huge header length", "nested", "reshaped"])
def test_no_mutation_takes_much_memory(kind, source, tmp_path, capsys):
    tracemalloc.start()
    for seed in range(6):
        survive(source, tmp_path, kind, 1000 + seed, capsys)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY_LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_thousand_mutations(kind, source, tmp_path, capsys):
    for seed in range(100, 160):
        survive(source, tmp_path, kind, seed, capsys)
