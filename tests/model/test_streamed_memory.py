"""What streaming costs of memory: slots, two layers while a prompt is read, and next to nothing of
the system's file cache."""

import ctypes
import gc
import mmap
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.files.safetensors_writing import TensorPlan, plan_array
from dsv4_mlx.loading import load_model
from dsv4_mlx.release.config import FLASH, DeepseekV4Config
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.release.tensors import TensorSpec, checkpoint_tensors
from dsv4_mlx.sizing.streamed import STAGED_LAYERS
from dsv4_mlx.testing import checkpoints
from dsv4_mlx.testing.checkpoints import TINY
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from tests.model import streamed

pytestmark = pytest.mark.slow

MIB = 1 << 20
MARGIN = 64 * MIB
MANY = TINY.replace(
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
LARGE = MANY.replace(
    hidden_size=FLASH.hidden_size,
    moe_intermediate_size=FLASH.moe_intermediate_size,
    n_routed_experts=20,
)
"""The same with Flash's own experts, 20 of 13.4 MB, which take 1.07 GB in all."""


@dataclass(frozen=True)
class Case:
    """A folder, its slots of a layer, and the tokens of a prompt that passes whole layers."""

    config: DeepseekV4Config
    slots: int
    prompt: int
    chunk: int
    compared: int
    """Tokens after the prompt whose logits are compared with those of the whole model."""


# For chunks of more tokens than one a CPU, and no GPU, unpacks the large shared expert to 96 MiB of
# float32, in a model that lies in memory too.
CASES = {"many": Case(MANY, 8, 300, 256, 20), "large": Case(LARGE, 6, 12, 1, 2)}


def tensors(config: DeepseekV4Config, seed: int = 0) -> Iterator[TensorPlan]:
    """The checkpoint's, its experts of random codes."""
    rng = np.random.default_rng(seed)
    specs = {spec.name: spec for spec in checkpoint_tensors(config)}
    for name, spec in specs.items():
        if ".experts." in name:
            yield plan_array(name, spec.dtype, codes(spec, rng))
        elif not name.endswith(".scale"):
            scale = specs.get(name.removesuffix("weight") + "scale")
            yield from checkpoints._tensor(config, spec, scale, checkpoints._generator(seed, name))


def codes(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    if spec.name.endswith(".scale"):
        return rng.integers(118, 120, spec.shape, np.uint8)
    return rng.integers(0, 256, spec.shape, np.uint8).view(np.int8)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def folder(case: Case, tmp_path: Path) -> Iterator[Path]:
    """On the disk and not in the system's file cache."""
    checkpoints._write_shards(tmp_path, list(tensors(case.config)), 4)
    checkpoints._write_json(tmp_path / "config.json", keys_of(case.config))
    for path in shards(tmp_path):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    yield tmp_path
    shutil.rmtree(tmp_path)  # as large as it is


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


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


@dataclass(frozen=True)
class Sizes:
    """Bytes that a streamed model may take, by what they are for."""

    dense: int
    pools: int
    staging: int
    experts: int
    """Of all of them, which it may not."""


def sizes_of(folder: Path, case: Case) -> Sizes:
    parameters = plan_parameters(open_checkpoint(folder))
    sizes = {
        one.module: sum(form.nbytes for form in one.loaded("F32").values())
        for one in parameters.parameters
        if ".mlp.experts." in one.module
    }
    experts, pools = sum(sizes.values()), streamed.memory_of(folder, case.slots)
    staging = STAGED_LAYERS * experts // case.config.num_hidden_layers
    return Sizes(parameters.loaded_bytes("F32") - experts, pools, staging, experts)


@contextmanager
def most_memory(allowed: int, before: int, what: str) -> Iterator[None]:
    """Inside, no more than so many bytes and MARGIN come to be beside those `before`."""
    mx.clear_cache()
    mx.reset_peak_memory()
    yield
    found = mx.get_peak_memory() - before
    print(f"{what}: {found / MIB:.0f} MiB of {allowed / MIB:.0f} + {MARGIN / MIB:.0f}")
    assert found <= allowed + MARGIN, what


@pytest.mark.skipif(sys.platform != "linux", reason="mincore of macOS tells of mapped pages alone")
def test_memory_and_file_cache(case: Case, folder: Path) -> None:
    gc.collect()
    sizes, before = sizes_of(folder, case), mx.get_active_memory()
    assert sizes.experts > sizes.pools + sizes.staging + MARGIN, "whole experts would be noticed"
    with most_memory(sizes.dense + sizes.pools, before, "loading"):
        model = load_model(open_checkpoint(folder), backend="cpu", expert_memory=sizes.pools)
    assert model.streamed is not None
    session = Engine(model, prefill_chunk=case.chunk).session()
    prompt = np.random.default_rng(1).integers(2, case.config.vocab_size, case.prompt).tolist()
    with most_memory(sizes.dense + sizes.pools + sizes.staging, before, "a prompt"):
        session.sync(prompt)
    pages = [sum(map(cached_bytes, shards(folder)))]
    read = model.streamed.facts.facts()
    assert read["misses"] >= case.config.n_routed_experts * (case.config.num_hidden_layers - 1)
    with most_memory(sizes.dense + sizes.pools, before, "a reply"):
        drawn = session.stream(50, temperature=0.9, seed=2, stop_ids=())
        said = [(token.id, token.logprob) for token in drawn]
    pages.append(sum(map(cached_bytes, shards(folder))))
    print("in the file cache:", *(f"{one / MIB:.1f} MiB" for one in pages))
    assert max(pages) <= MARGIN
    found = model.streamed.facts.facts()
    expert = sizes.pools // case.slots // case.config.num_hidden_layers
    assert found["bytes_read"] == found["misses"] * expert
    assert found["bytes_read"] - read["bytes_read"] > 2 * MARGIN
    del session, model
    whole = load_model(open_checkpoint(folder), backend="cpu")
    theirs = Engine(whole, prefill_chunk=case.chunk).session()
    theirs.sync(prompt)
    drawn = theirs.stream(case.compared, temperature=0.9, seed=2, stop_ids=())
    assert [(token.id, token.logprob) for token in drawn] == said[: case.compared]
