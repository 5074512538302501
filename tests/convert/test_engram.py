"""Folders with Engram are converted, verified and shown; those without one stay as they were."""

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from convert import report
from convert.disk import Disk
from convert.inspect import describe, page
from convert.layout import PAGE_BYTES
from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.verify import verify
from convert.writer import write
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.files.safetensors_writing import plan_array
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.engram import KEPT_BYTES, EngramConfig
from dsv4_mlx.release.token_map import TOKEN_MAP_FILE
from dsv4_mlx.sizing.weight_bytes import weight_bytes
from dsv4_mlx.testing.checkpoints import TINY, edit_checkpoint, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, open_checkpoint
from tests.convert.small import SMALL, contents
from tests.model import running

FACTS = EngramConfig((0, 1), 200, 300, max_ngram_size=3, n_heads=2, head_dim=64)
CONFIG = TINY.replace(
    num_hidden_layers=2,
    compress_ratios=(4, 0, 0),
    num_hash_layers=0,
    n_routed_experts=2,
    engram=FACTS,
)
TOKEN_MAP = [token % 200 for token in range(CONFIG.vocab_size)]
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 20)
TABLES = [f"model.layers.{layer}.engram.table" for layer in FACTS.layer_ids]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("official"), CONFIG, tokenizer=False)
    (folder / TOKEN_MAP_FILE).write_text(json.dumps(TOKEN_MAP))
    return folder


def convert(source: Path, folder: Path, recipe: str = "native") -> Path:
    write(plan_conversion(open_checkpoint(source), recipe), folder, ProgressDisplay())
    return folder


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(source, tmp_path_factory.mktemp("converted") / "out")


def loaded(folder: Path, tables: str) -> Model:
    checkpoint = open_checkpoint(folder)
    return load_model(checkpoint, dtype=mx.float32, backend="cpu", tables=tables)


def test_a_converted_model_is_the_sources_bit_for_bit(source: Path, converted: Path) -> None:
    before = loaded(source, "memory")
    expected = running.run(before, TOKENS, None)
    summary = json.loads((converted / CONVERSION_FILE).read_text())
    for tables in ("memory", "files"):
        after = loaded(converted, tables)
        assert after.fingerprint == before.fingerprint
        assert after.weights_fingerprint == before.weights_fingerprint == summary["fingerprint"]
        np.testing.assert_array_equal(running.run(after, TOKENS, None), expected)


def test_a_table_has_a_file_of_its_own_in_which_no_row_straddles_a_page(converted: Path) -> None:
    headers = [read_header(path) for path in sorted(converted.glob("model-*.safetensors"))]
    for name in TABLES:
        (found,) = (header for header in headers if f"{name}.weight" in header)
        assert found.keys() == {f"{name}.weight", f"{name}.scales"}
        for entry in found.values():
            row = entry.nbytes // entry.shape[0]
            starts = entry.start + row * np.arange(entry.shape[0])
            assert (starts // PAGE_BYTES == (starts + row - 1) // PAGE_BYTES).all()
        assert found[f"{name}.weight"].start % PAGE_BYTES == 0


def test_the_plan_knows_every_byte(source: Path, converted: Path) -> None:
    for shard in plan_conversion(open_checkpoint(source)).files:
        assert (converted / shard.file).stat().st_size == shard.file_bytes()


def test_the_token_map_is_written_with_it(source: Path, converted: Path) -> None:
    assert json.loads((converted / TOKEN_MAP_FILE).read_text()) == TOKEN_MAP
    summary = json.loads((converted / CONVERSION_FILE).read_text())
    assert TOKEN_MAP_FILE in summary["file_bytes"]


def test_recipes_leave_tables_as_released(source: Path, tmp_path: Path) -> None:
    folder = convert(source, tmp_path / "out", "q4")
    made = json.loads((folder / "config.json").read_text())["quantization"]
    assert made["lm_head"]["mode"] == "affine"
    assert all(made[name]["mode"] == "mxfp8" for name in TABLES)
    verify(folder, source, "lossless", ProgressDisplay())


@pytest.mark.parametrize("level", ["structure", "lossless", "numeric"])
def test_verification_passes(source: Path, converted: Path, level: str) -> None:
    verify(converted, source, level, ProgressDisplay())


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return convert(source, tmp_path / "copy")


@pytest.mark.parametrize("part", ["weight", "scales"])
def test_one_wrong_byte_of_a_table_is_found(source: Path, copy: Path, part: str) -> None:
    entry = open_checkpoint(copy).tensors[f"{TABLES[1]}.{part}"]
    with entry.path.open("r+b") as file:
        file.seek(entry.start + entry.nbytes // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    for against in (source, None):
        with pytest.raises(CheckpointError, match=rf"{TABLES[1]}\.{part} in model-.* is not what"):
            verify(copy, against, "lossless", ProgressDisplay())


def test_another_token_map_is_found(source: Path, copy: Path) -> None:
    path = copy / TOKEN_MAP_FILE
    written = json.loads(path.read_text())
    path.write_text(json.dumps([*written[1:200], written[0], *written[200:]], indent=2) + "\n")
    with pytest.raises(CheckpointError, match="compresses token ids otherwise than"):
        verify(copy, source, "structure", ProgressDisplay())
    size = path.stat().st_size
    path.write_text(path.read_text().replace("199", "198"))
    assert path.stat().st_size == size
    with pytest.raises(CheckpointError, match="gives 199 compressed token ids"):
        verify(copy, None, "structure", ProgressDisplay())


def test_scales_that_no_table_has_stop_a_conversion(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "source", CONFIG, tokenizer=False)
    (folder / TOKEN_MAP_FILE).write_text(json.dumps(TOKEN_MAP))
    name = "layers.1.engram.embed.scale"
    scales = np.full((FACTS.table_rows(1), FACTS.head_dim // 32), 255, np.uint8)
    edit_checkpoint(folder, {name: plan_array(name, "F8_E8M0", scales)})
    with pytest.raises(CheckpointError, match=name):
        convert(folder, tmp_path / "out")


class Stopping(Disk):
    """Full when the third file is about to be there."""

    left = 3

    def publish(self, temporary: Path, final: Path) -> None:
        self.left -= 1
        if not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().publish(temporary, final)


def test_a_conversion_that_was_stopped_goes_on(
    source: Path, converted: Path, tmp_path: Path
) -> None:
    plan, folder = plan_conversion(open_checkpoint(source)), tmp_path / "out"
    with pytest.raises(OSError, match="No space left"):
        write(plan, folder, ProgressDisplay(), disk=Stopping())
    assert not (folder / CONVERSION_FILE).exists()
    write(plan, folder, ProgressDisplay(), resume=True)
    assert contents(folder) == contents(converted)


def test_pages_say_where_tables_lie(source: Path, converted: Path) -> None:
    rows, size = sum(FACTS.num_embeddings), sum(FACTS.num_embeddings) * 66
    line = f"Engram before layers 0, 1: {rows} rows, {size / 1e6:.1f} MB, held in memory"
    facts = describe(converted)
    assert facts["engram"]["table_bytes"] == size == facts["engram"]["held_bytes"]
    assert line in page(facts)
    assert any(one["what"] == "Engram's tables" and one["nbytes"] == size for one in facts["kinds"])
    plan = plan_conversion(open_checkpoint(source))
    assert line in report.page(plan, converted)
    assert report.engram_facts(CONFIG.replace(engram=None)) == {}


def test_memory_counts_tables_once_and_rows_that_are_kept(source: Path) -> None:
    """Published tables stay in their files, of which 64 MiB each are kept."""
    plan = plan_conversion(open_checkpoint(source))
    size = sum(FACTS.num_embeddings) * 66
    without = report.loaded_bytes(plan) - size
    published = EngramConfig((0, 1), 200, 16_000_000)
    assert published.stays_in_files and published.held_bytes == 2 * KEPT_BYTES
    assert published.table_bytes > 200e9
    changed = replace(plan.source, config=CONFIG.replace(engram=published))
    assert report.loaded_bytes(replace(plan, source=changed)) == without + 2 * KEPT_BYTES
    assert weight_bytes(changed) == weight_bytes(plan.source) - size + 2 * KEPT_BYTES


MADE = {
    "config.json": "5253550e",
    "model-00001-of-00002.safetensors": "9d47a6f3",
    "model-00002-of-00002.safetensors": "5f9a1651",
    "model.safetensors.index.json": "16e42b2f",
}
"""SHA-256 of what 67a2264, which converted no Engram, made of the smallest model; the second shard
has the backbone's mark in its header since, as it holds drafts, and the same header and data
beside it."""


def test_a_model_without_engram_is_converted_as_before(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "source", SMALL, tokenizer=False)
    found = contents(convert(source, tmp_path / "out"))
    assert {name: hashlib.sha256(found[name]).hexdigest()[:8] for name in MADE} == MADE
    others = {"CARD.md", CONVERSION_FILE, "generation_config.json"}
    assert found.keys() == MADE.keys() | others
