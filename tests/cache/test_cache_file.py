"""Cache files: what is loaded continues bit for bit, what does not fit is refused in a sentence."""

import os
import resource
from pathlib import Path
from threading import Thread

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import LayerCache
from dsv4_mlx.cache import seal as cache_seal
from dsv4_mlx.errors import CacheError
from dsv4_mlx.files.finishing import Finishing, finished_by
from dsv4_mlx.model.v4 import Model
from tests.files.lacking import NO_REPLACE, NO_SYNC, lacking, named
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
    notes = {"title": "Grüße"}
    caches.save(path, grown(model), fingerprint=MARK, tokens=tokens, notes=notes)
    return path


def test_a_loaded_cache_continues_bit_for_bit(model: Model, saved: Path) -> None:
    cache, tokens, notes, beside, places = caches.load(saved, model=model, fingerprint=MARK)
    assert tokens == PROMPT.tolist()
    assert (notes, beside, places) == ({"title": "Grüße"}, {}, [])
    kept = running.feed(model, grown(model), [NEXT])
    np.testing.assert_array_equal(running.feed(model, cache, [NEXT]), kept)


def test_a_file_may_be_finished_by_another_thread(model: Model, saved: Path) -> None:
    left: list[Finishing] = []
    path = saved.with_name("later")
    with finished_by(left.append):
        caches.save(path, grown(model), fingerprint=MARK, tokens=PROMPT.tolist())
    assert not path.exists() and len(left) == 1
    disk = Thread(target=left[0])
    disk.start()
    disk.join()
    assert sorted(one.name for one in saved.parent.iterdir()) == ["cache", "later"]
    cache, *_ = caches.load(path, model=model, fingerprint=MARK)
    kept = running.feed(model, grown(model), [NEXT])
    np.testing.assert_array_equal(running.feed(model, cache, [NEXT]), kept)


def test_arrays_of_the_callers_come_back_beside_the_cache(model: Model, tmp_path: Path) -> None:
    path, tokens, logits = tmp_path / "cache", PROMPT.tolist(), mx.array([0.5, -1.0])
    caches.save(path, grown(model), fingerprint=MARK, tokens=tokens, beside={"logits": logits})
    assert mx.load(str(path), format="safetensors")["session.logits"].tolist() == [0.5, -1.0]
    _, _, notes, beside, _ = caches.load(path, model=model, fingerprint=MARK)
    assert (notes, {name: array.tolist() for name, array in beside.items()}) == (
        {},
        {"logits": [0.5, -1.0]},
    )


def test_places_continue_bit_for_bit(model: Model, tmp_path: Path) -> None:
    """Before and after closed windows of both kinds, and on the edge of one."""
    cache, moments = model.make_cache(), []
    for start, stop in ((0, 3), (3, 64), (64, 130), (130, 131)):
        running.feed(model, cache, [PROMPT[start:stop]])
        moments.append(caches.snapshot(cache))
    tokens = PROMPT.tolist()
    path = tmp_path / "cache"
    caches.save(path, cache, fingerprint=MARK, tokens=tokens, notes={}, places=moments)
    loaded, *_, places = caches.load(path, model=model, fingerprint=MARK)
    assert [place.offset for place in places] == [3, 64, 130, 131]
    for place, original in zip(places, moments, strict=True):
        caches.restore(loaded, place)
        caches.restore(cache, original)
        kept = running.feed(model, cache, [NEXT])
        np.testing.assert_array_equal(running.feed(model, loaded, [NEXT]), kept)


def test_a_place_costs_its_rings_alone(model: Model, tmp_path: Path) -> None:
    cache = grown(model)
    moment = caches.snapshot(cache)
    sizes = []
    for number, places in enumerate(([], [moment])):
        path = tmp_path / str(number)
        caches.save(path, cache, fingerprint=MARK, tokens=PROMPT.tolist(), notes={}, places=places)
        sizes.append(path.stat().st_size)
    names = 2 * len(cache) + 1
    assert sizes[1] - sizes[0] <= moment.nbytes + 128 * names


def test_a_file_of_version_2_has_no_places(model: Model, saved: Path) -> None:
    stored, header = mx.load(str(saved), format="safetensors", return_metadata=True)
    mx.eval(list(stored.values()))
    del header["checksum"]
    mx.save_safetensors(f"{saved}.safetensors", stored, header | {"version": "2"})
    cache, *_, places = caches.load(f"{saved}.safetensors", model=model, fingerprint=MARK)
    kept = running.feed(model, grown(model), [NEXT])
    np.testing.assert_array_equal(running.feed(model, cache, [NEXT]), kept)
    assert places == []


@pytest.mark.parametrize("offsets", [[0], [132], [5, 4], [4, 4]])
def test_places_outside_the_timeline_are_refused(
    model: Model, saved: Path, offsets: list[int]
) -> None:
    rewritten(saved, {"places": mx.array(offsets, mx.int32)})
    assert "expected places within 131 tokens" in refusal(saved, model)


def test_a_place_without_its_rings_is_refused(model: Model, saved: Path) -> None:
    rewritten(saved, {"places": mx.array([64], mx.int32)})
    assert refusal(saved, model).startswith("expected open of layer 0 as ((1, ")


def test_an_empty_cache_is_saved_too(model: Model, tmp_path: Path) -> None:
    caches.save(tmp_path / "cache", model.make_cache(), fingerprint=MARK, tokens=[], notes={})
    cache, tokens, *_ = caches.load(tmp_path / "cache", model=model, fingerprint=MARK)
    assert tokens == [] and all(layer.empty() for layer in cache)


def test_files_are_private_and_leave_nothing_beside_them(saved: Path) -> None:
    assert saved.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in saved.parent.iterdir()] == ["cache"]


@pytest.mark.parametrize("folder", [b"other-\xff", b"\xfe\xff \n", "Grüße".encode("latin-1")])
def test_a_folder_whose_name_is_no_utf8_holds_caches(
    model: Model, tmp_path: Path, folder: bytes
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + folder), "cache.kv")
    try:
        path.parent.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    for _ in range(2):
        caches.save(path, grown(model), fingerprint=MARK, tokens=PROMPT.tolist())
    assert caches.load(path, model=model, fingerprint=MARK)[1] == PROMPT.tolist()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failing", [*NO_REPLACE, *NO_SYNC], ids=named)
def test_whatever_a_disk_lacks_a_cache_is_written(
    model: Model, saved: Path, failing: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, *failing)
    cache = model.make_cache()
    running.feed(model, cache, [PROMPT[:7]])
    caches.save(saved, cache, fingerprint=MARK, tokens=PROMPT[:7].tolist())
    assert caches.load(saved, model=model, fingerprint=MARK)[1] == PROMPT[:7].tolist()
    assert list(saved.parent.iterdir()) == [saved]


def test_a_full_disk_is_one_sentence_and_leaves_the_older_file(model: Model, saved: Path) -> None:
    before, cache = saved.read_bytes(), grown(model)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CacheError, match=r"could not be written .*; free disk space"):
            caches.save(saved, cache, fingerprint=MARK, tokens=PROMPT.tolist())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_tokens_that_were_not_fed_are_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"expected 131 tokens.*but found 130"):
        caches.save(tmp_path / "cache", grown(model), fingerprint=MARK, tokens=[1] * 130, notes={})
    assert not list(tmp_path.iterdir())


def refusal(path: Path, model: Model, fingerprint: str = MARK) -> str:
    with pytest.raises(CacheError) as caught:
        caches.load(path, model=model, fingerprint=fingerprint)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewritten(path: Path, arrays: dict[str, mx.array] | None = None, **changes: str) -> None:
    """The same file with other tensors beside its own and another header, sealed again."""
    stored, header = mx.load(str(path), format="safetensors", return_metadata=True)
    mx.eval(list(stored.values()))
    other = path.with_name("other.safetensors")
    header |= {"checksum": cache_seal.OPEN} | changes
    mx.save_safetensors(str(other), stored | (arrays or {}), header)
    if header["checksum"] == cache_seal.OPEN:
        cache_seal.close(other)
    other.replace(path)


def test_the_cache_of_another_model_is_refused(model: Model, saved: Path) -> None:
    assert "was written for another one" in refusal(saved, model, "b" * 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1"}, "expected cache version 5"),
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


def test_any_flipped_bit_is_refused(model: Model, saved: Path) -> None:
    content, random = saved.read_bytes(), np.random.default_rng(1)
    in_header = random.integers(0, int.from_bytes(content[:8], "little"), 60)
    for place in [*in_header, *random.integers(0, len(content), 60)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        saved.write_bytes(damaged)
        refusal(saved, model)


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
    rewritten(saved, {name: mx.load(str(saved), format="safetensors")["0.open"]})
    layer, array = name.split(".")
    expected = f"expected {array} of layer {layer} as None but found"
    assert refusal(saved, model).startswith(expected)
