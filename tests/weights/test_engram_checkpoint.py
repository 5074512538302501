"""A lab checkpoint with Engram: written, loaded, and its tables read from files bit for bit."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_writing import plan_array
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.token_map import TOKEN_MAP_FILE
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.sizing.weight_bytes import weight_bytes
from dsv4_mlx.testing.checkpoints import (
    LONG,
    each_dequantized,
    edit_checkpoint,
    write_tiny_checkpoint,
)
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.stored_weights import rounded, stored_dtypes, write_release
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.model import running, small
from tests.oracle import engram_numpy

FACTS = EngramConfig((0, 2), 200, 300, max_ngram_size=3, n_heads=2, head_dim=64)
CONFIG = LONG.replace(engram=FACTS)
TOKEN_MAP = np.arange(CONFIG.vocab_size) % 200
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("engram"), CONFIG, tokenizer=False)
    (path / TOKEN_MAP_FILE).write_text(json.dumps(TOKEN_MAP.tolist()))
    return path


def loaded(folder: Path, tables: str, numerics: Numerics = Numerics.OFFICIAL) -> Model:
    checkpoint = open_checkpoint(folder)
    return load_model(checkpoint, dtype=mx.float32, numerics=numerics, backend="cpu", tables=tables)


@pytest.fixture(scope="module")
def in_memory(folder: Path) -> Model:
    return loaded(folder, "memory")


@pytest.mark.parametrize("sizes", [None, [30, 1, 1, 18]], ids=["whole", "chunks"])
def test_rows_from_files_give_the_bits_of_rows_in_memory(
    folder: Path, in_memory: Model, sizes: list[int] | None
) -> None:
    from_files = loaded(folder, "files")
    assert from_files.fingerprint == in_memory.fingerprint
    assert not any("table" in name for name in from_files.engrams()[0].parameters())
    found = running.run(from_files, TOKENS, sizes)
    np.testing.assert_array_equal(found, running.run(in_memory, TOKENS, sizes))


def test_batches_from_files_give_the_bits_of_batches_in_memory(
    folder: Path, in_memory: Model
) -> None:
    prompts = [TOKENS[:9], TOKENS[:2], TOKENS[20:]]
    found = running.run_batch(loaded(folder, "files"), prompts, 7, left=True)
    for ours, theirs in zip(
        found, running.run_batch(in_memory, prompts, 7, left=True), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_loaded_checkpoint_has_the_oracles_rows(folder: Path, in_memory: Model) -> None:
    weights, engram = dequantize_tables(folder), in_memory.engrams()[2]
    hashing = engram_numpy.Hashing(
        np.array(engram._multipliers).tolist(), FACTS.primes(2), int(TOKEN_MAP[2])
    )
    expected = engram_numpy.looked_up(weights, "layers.2.", TOKEN_MAP[TOKENS], hashing)
    found = engram.look_up(mx.array(TOKENS)[None], in_memory.make_cache()[2])()
    np.testing.assert_array_equal(np.array(found[0]), expected)


def dequantize_tables(folder: Path) -> dict[str, np.ndarray]:
    return {n: values for n, values in each_dequantized(folder) if ".engram.embed." in n}


def test_the_token_map_belongs_to_the_fingerprint(folder: Path, in_memory: Model) -> None:
    path = folder / TOKEN_MAP_FILE
    kept = path.read_text()
    path.write_text(json.dumps(TOKEN_MAP[::-1].tolist()))
    try:
        assert loaded(folder, "memory").fingerprint != in_memory.fingerprint
    finally:
        path.write_text(kept)


def test_costs_count_the_rows_of_a_token(folder: Path, in_memory: Model) -> None:
    without = Costs(CONFIG.replace(engram=None))
    read = Costs(CONFIG).bytes_per_token() - without.bytes_per_token()
    rows = 2 * FACTS.rows_per_token * (FACTS.head_dim + FACTS.head_dim // 32)
    assert read >= rows and Costs(CONFIG).cache_bytes(9) - without.cache_bytes(9) == 2 * 2 * 4
    arrays = [array for _, array in tree_flatten(in_memory.parameters())]
    spare = weight_bytes(open_checkpoint(folder), dense=4) - sum(one.nbytes for one in arrays)
    assert 0 <= spare < 1000  # the scales of blocks, as they are in files


def test_scales_that_mlx_cannot_hold_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path, CONFIG, tokenizer=False)
    (folder / TOKEN_MAP_FILE).write_text(json.dumps(TOKEN_MAP.tolist()))
    name = "layers.2.engram.embed.scale"
    scales = np.full((FACTS.table_rows(2), FACTS.head_dim // 32), 255, np.uint8)
    edit_checkpoint(folder, {name: plan_array(name, "F8_E8M0", scales)})
    with pytest.raises(CheckpointError, match=name):
        loaded(folder, "memory")
    from_files = loaded(folder, "files")
    with pytest.raises(CheckpointError, match=f"{name} holds scale bytes 255 to 255"):
        from_files(mx.array(TOKENS)[None])


def test_a_table_that_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    other = write_tiny_checkpoint(tmp_path, CONFIG, tokenizer=False)
    edit_checkpoint(other, {"layers.0.engram.embed.weight": None})
    with pytest.raises(CheckpointError, match=r"layers\.0\.engram\.embed\.weight is missing"):
        loaded(other, "files")


def test_what_training_writes_loads_as_it_was_trained(tmp_path: Path) -> None:
    config = CONFIG.replace(engram=EngramConfig((0, 2), 512, 300, 3, 2, 64), num_hash_layers=0)
    masters = initial_parameters(config, 0)
    tables = [name for name in masters if name.endswith("table.weight")]
    for name in tables:  # rows of unequal sizes, so that their scales differ
        masters[name] = masters[name] * mx.power(2.0, mx.arange(len(masters[name])) % 5)[:, None]
    write_release(tmp_path, config, masters, shard_bytes=1 << 20)
    trained = Model(config, numerics=Numerics.PLAIN, backend="cpu")
    trained.load_weights(list(rounded(masters, stored_dtypes(config)).items()), strict=True)
    expected = small.logits(trained, TOKENS)
    for where in ("memory", "files"):
        found = small.logits(loaded(tmp_path, where, Numerics.PLAIN), TOKENS)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
