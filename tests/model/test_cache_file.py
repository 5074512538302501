"""Cache files: what is loaded continues bit for bit, what does not fit is refused in a sentence."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import LayerCache
from dsv4_mlx.errors import CacheError
from dsv4_mlx.model import Model
from tests.model import running, small

CONFIG = small.config(
    num_hidden_layers=3, compress_ratios=[4, 128, 0, 0], sliding_window=6, index_topk=4
)
PROMPT, NEXT = small.TOKENS[:131], small.TOKENS[131:171]
MARK = "a" * 64


@pytest.fixture(scope="module")
def model() -> Model:
    return small.model(CONFIG, small.weights(CONFIG))


def grown(model: Model) -> list[LayerCache]:
    cache = model.make_cache()
    running.feed(model, cache, [PROMPT])
    return cache


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    tokens = PROMPT.tolist()
    details = {"title": "Grüße"}
    caches.save(path, grown(model), fingerprint=MARK, tokens=tokens, metadata=details)
    return path


def test_a_loaded_cache_continues_bit_for_bit(model: Model, saved: Path) -> None:
    cache, tokens, details = caches.load(saved, model=model, fingerprint=MARK)
    assert tokens == PROMPT.tolist()
    assert details == {"title": "Grüße"}
    kept = running.feed(model, grown(model), [NEXT])
    np.testing.assert_array_equal(running.feed(model, cache, [NEXT]), kept)


def test_an_empty_cache_is_saved_too(model: Model, tmp_path: Path) -> None:
    caches.save(tmp_path / "cache", model.make_cache(), fingerprint=MARK, tokens=[], metadata={})
    cache, tokens, _ = caches.load(tmp_path / "cache", model=model, fingerprint=MARK)
    assert tokens == [] and all(layer.empty() for layer in cache)


def test_files_are_private_and_leave_nothing_beside_them(saved: Path) -> None:
    assert saved.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in saved.parent.iterdir()] == ["cache"]


def test_tokens_that_were_not_fed_are_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"expected 131 tokens.*but found 130"):
        caches.save(
            tmp_path / "cache", grown(model), fingerprint=MARK, tokens=[1] * 130, metadata={}
        )
    assert not list(tmp_path.iterdir())


def refusal(path: Path, model: Model, fingerprint: str = MARK) -> str:
    with pytest.raises(CacheError) as caught:
        caches.load(path, model=model, fingerprint=fingerprint)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewritten(path: Path, **changes: str) -> None:
    """The same tensors with another header."""
    arrays, header = mx.load(str(path), format="safetensors", return_metadata=True)
    mx.eval(list(arrays.values()))
    other = path.with_name("other.safetensors")
    mx.save_safetensors(str(other), arrays, header | changes)
    other.replace(path)


def test_the_cache_of_another_model_is_refused(model: Model, saved: Path) -> None:
    assert "was written for another one" in refusal(saved, model, "b" * 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1"}, "expected cache version 2"),
        ({"format": "another"}, "found another kind"),
        ({"layout": "fp16"}, "expected entries stored as float32, bfloat16, compact"),
        ({"layout": "compact"}, "load the model with the numerics and kv"),
    ],
    ids=["version", "format", "unknown layout", "other layout"],
)
def test_other_headers_are_refused(
    model: Model, saved: Path, changes: dict[str, str], words: str
) -> None:
    rewritten(saved, **changes)
    assert words in refusal(saved, model)


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(model: Model, saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert "is damaged" in refusal(saved, model)


def test_random_bytes_are_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "is damaged" in refusal(path, model)


def test_the_rows_of_another_shape_are_refused(model: Model, saved: Path) -> None:
    other_config = CONFIG | {"sliding_window": 5}
    other = small.model(other_config, small.weights(other_config))
    assert "does not belong to this model" in refusal(saved, other)


@pytest.mark.parametrize("name", ["2.open", "2.entries", "1.keys"])
def test_rows_that_a_layer_does_not_keep_are_refused(model: Model, saved: Path, name: str) -> None:
    """Layer 1 has no indexer, layer 2 nothing but its window."""
    arrays, header = mx.load(str(saved), format="safetensors", return_metadata=True)
    mx.eval(list(arrays.values()))
    other = saved.with_name("other.safetensors")
    mx.save_safetensors(str(other), {**arrays, name: arrays["0.open"]}, header)
    other.replace(saved)
    layer, array = name.split(".")
    expected = f"expected {array} of layer {layer} as None but found"
    assert refusal(saved, model).startswith(expected)
