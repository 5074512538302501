"""What breaks stays local and visible: NaN, interruptions, empty calls, logits alone kept."""

import gc
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import entries as entries_module
from dsv4_mlx.cache import seal as cache_seal
from dsv4_mlx.cache.entries import Entries
from dsv4_mlx.errors import CacheError, UsageError
from dsv4_mlx.loading import load
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from metal_kernels.shared import formats
from tests.model import small

NAN = float("nan")


@pytest.fixture(scope="module")
def plain() -> Model:
    return small.model(small.CONFIG, small.weights(small.CONFIG), Numerics.PLAIN)


def test_a_nan_shows_in_the_logits_of_packed_experts(tmp_path: Path) -> None:
    """A router that finds no best expert must not read outside the experts' weights."""
    model, _ = load(write_tiny_checkpoint(tmp_path), backend="cpu")
    table = np.array(model.model.embed_tokens.weight.astype(mx.float32))
    table[7] = NAN
    model.model.embed_tokens.weight = mx.array(table)
    assert mx.isnan(model(mx.array([[7]]))).all()
    assert mx.isnan(model(mx.array([[7] * 40]))).all()
    assert not mx.isnan(model(mx.array([[8]]))).any()


@pytest.mark.parametrize("roundtrip", [formats.fp8_roundtrip, formats.fp4_roundtrip])
@pytest.mark.parametrize("fault", [NAN, float("inf")])
def test_rounding_does_not_hide_a_fault(roundtrip, fault: float) -> None:
    x = np.ones(128, np.float32)
    x[5] = fault
    rounded = np.array(roundtrip(mx.array(x)))
    assert not np.isfinite(rounded[5])
    assert np.all(rounded[64:] == 1)


def test_an_interrupted_append_leaves_forks_their_history(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = Entries()
    entries.append(mx.ones((1, 3, 4)))
    fork = entries.view()

    def interrupted(*_: object) -> mx.array:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(entries_module, "with_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            entries.append(2 * mx.ones((1, 1, 4)))
    for timeline in (entries, fork):
        assert timeline.count == 3
        assert (timeline.rows() == mx.ones((1, 3, 4))).all()
    fork.append(3 * mx.ones((1, 1, 4)))
    assert fork.rows()[0, 3, 0].item() == 3


@pytest.mark.parametrize("shape", [(1, 0), (0, 3), (3,)])
def test_a_call_without_tokens_is_refused(plain: Model, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"token ids \[B, S\]"):
        plain(mx.zeros(shape, mx.int32))


def test_a_chunk_of_padding_alone_changes_nothing(plain: Model) -> None:
    prompts = [small.TOKENS[:6], small.TOKENS[:4]]
    cache = [type(layer).merge([layer.fork(), layer.fork()]) for layer in plain.make_cache()]
    for layer in cache:
        layer.prepare(left_padding=[4, 6])
    padded = np.zeros((2, 10), np.int32)
    for row, prompt in enumerate(prompts):
        padded[row, 10 - len(prompt) :] = prompt
    plain(mx.array(padded[:, :3]), cache)
    assert all(row.position == 0 for layer in cache for row in layer.rows)
    logits = np.array(plain(mx.array(padded[:, 3:]), cache))
    for row, prompt in enumerate(prompts):
        expected = small.logits(plain, prompt)
        np.testing.assert_allclose(logits[row, -len(prompt) :], expected, atol=1e-4)


def test_evaluating_only_logits_keeps_no_lazy_chain() -> None:
    """mlx-lm's decode loop does; index keys are needed by no logit until top-k selects."""
    settings = small.one_layer(4, index_topk=4096)
    model = small.model(settings, small.weights(settings))
    cache = model.make_cache()
    gc.collect()  # what earlier tests left must not go meanwhile
    sizes = []
    for step in range(120):
        mx.eval(model(mx.array([[int(small.TOKENS[step])]]), cache))
        if step % 20 == 19:
            sizes.append(mx.get_active_memory() - caches.nbytes(cache))
    assert max(sizes[1:]) - min(sizes[1:]) < 16_384


@pytest.mark.parametrize("missing", ["tokens", "layout", "details"])
def test_a_cache_file_without_a_part_is_refused(plain: Model, tmp_path: Path, missing: str) -> None:
    path = tmp_path / "session.safetensors"
    cache = plain.make_cache()
    plain(mx.array(small.TOKENS[None, :9]), cache)
    caches.save(path, cache, fingerprint="f", tokens=small.TOKENS[:9].tolist(), notes={})
    arrays, header = mx.load(str(path), return_metadata=True)
    arrays.pop(missing, None)
    header.pop(missing, None)
    mx.save_safetensors(str(path), arrays, header | {"checksum": cache_seal.OPEN})
    cache_seal.close(path)
    with pytest.raises(CacheError, match=missing):
        caches.load(path, model=plain, fingerprint="f")


@pytest.mark.parametrize("tokens", [mx.zeros(9), mx.full(9, 10**6, dtype=mx.int32)])
def test_a_cache_file_with_other_tokens_is_refused(
    plain: Model, tmp_path: Path, tokens: mx.array
) -> None:
    path = tmp_path / "session.safetensors"
    cache = plain.make_cache()
    plain(mx.array(small.TOKENS[None, :9]), cache)
    caches.save(path, cache, fingerprint="f", tokens=small.TOKENS[:9].tolist(), notes={})
    arrays, header = mx.load(str(path), return_metadata=True)
    header |= {"checksum": cache_seal.OPEN}
    mx.save_safetensors(str(path), arrays | {"tokens": tokens}, header)
    cache_seal.close(path)
    with pytest.raises(CacheError, match="token"):
        caches.load(path, model=plain, fingerprint="f")


def test_a_missing_cache_file_is_called_missing(plain: Model, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="there is none"):
        caches.load(tmp_path / "nothing", model=plain, fingerprint="f")
