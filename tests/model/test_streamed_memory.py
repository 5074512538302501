"""What streaming costs of memory: slots, and next to nothing of the system's file cache."""

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.files.safetensors_writing import TensorPlan, plan_array
from dsv4_mlx.loading import load_model
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.release.tensors import TensorSpec, checkpoint_tensors
from dsv4_mlx.testing import checkpoints
from dsv4_mlx.testing.checkpoints import TINY
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from tests.model import streamed

pytestmark = pytest.mark.slow

MIB = 1 << 20
CONFIG = TINY.replace(
    hidden_size=512,
    num_hidden_layers=4,
    n_routed_experts=128,
    num_experts_per_tok=6,
    moe_intermediate_size=512,
    num_hash_layers=1,
    num_nextn_predict_layers=0,
    compress_ratios=(0, 4, 128, 4),
)
"""Flash's roles of layers with 128 experts of 0.4 MB, which take 209 MB in all."""
SLOTS, MARGIN = 8, 64 * MIB


def tensors(seed: int = 0) -> Iterator[TensorPlan]:
    """The checkpoint's, its experts of random codes."""
    rng = np.random.default_rng(seed)
    specs = {spec.name: spec for spec in checkpoint_tensors(CONFIG)}
    for name, spec in specs.items():
        if ".experts." in name:
            yield plan_array(name, spec.dtype, codes(spec, rng))
        elif not name.endswith(".scale"):
            scale = specs.get(name.removesuffix("weight") + "scale")
            yield from checkpoints._tensor(CONFIG, spec, scale, checkpoints._generator(seed, name))


def codes(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    if spec.name.endswith(".scale"):
        return rng.integers(118, 120, spec.shape, np.uint8)
    return rng.integers(0, 256, spec.shape, np.uint8).view(np.int8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    checkpoints._write_shards(folder, list(tensors()), 4)
    checkpoints._write_json(folder / "config.json", keys_of(CONFIG))
    return folder


def cached_bytes(path: Path) -> int:
    """Bytes of a file that lie in the system's file cache."""
    size = path.stat().st_size
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        address = ctypes.c_void_p(view.ctypes.data)
        asked = ctypes.CDLL(None, use_errno=True).mincore(address, ctypes.c_size_t(size), pages)
        assert asked == 0, os.strerror(ctypes.get_errno())
        del view
        return int((np.frombuffer(pages, np.uint8) & 1).sum()) * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux", reason="mincore of macOS tells of mapped pages alone")
def test_memory_and_file_cache(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    plan = plan_parameters(checkpoint)
    experts = [one for one in plan.parameters if ".mlp.experts." in one.module]
    sizes = {one.module: sum(f.nbytes for f in one.loaded("F32").values()) for one in experts}
    dense, pools = plan.loaded_bytes("F32") - sum(sizes.values()), streamed.memory_of(folder, SLOTS)
    assert sum(sizes.values()) > pools + 2 * MARGIN, "whole experts would be noticed"
    shards = sorted(folder.glob("*.safetensors"))
    for path in shards:  # they were just written
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = load_model(checkpoint, backend="cpu", expert_memory=pools)
    cache, tokens = model.make_cache(), np.random.default_rng(1).integers(2, CONFIG.vocab_size, 50)
    logits = [
        np.array(model.last_logits(mx.array([[int(token)]]), cache)).copy() for token in tokens
    ]
    assert mx.get_peak_memory() - before <= dense + pools + MARGIN
    assert sum(map(cached_bytes, shards)) <= MARGIN
    assert model.streamed is not None
    found = model.streamed.facts.facts()
    expert = pools // SLOTS // CONFIG.num_hidden_layers
    assert found["bytes_read"] == found["misses"] * expert > 2 * MARGIN
    whole = load_model(checkpoint, backend="cpu")
    cache = whole.make_cache()
    for token, expected in zip(tokens[:20], logits, strict=False):
        ours = np.array(whole.last_logits(mx.array([[int(token)]]), cache))
        np.testing.assert_array_equal(ours, expected)
