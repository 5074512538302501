"""Files that go on from others: joined they are the whole file, bit for bit."""

from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import LayerCache
from dsv4_mlx.errors import CacheError
from dsv4_mlx.model.v4 import Model
from tests.model import running, small

CONFIG = small.config(
    num_hidden_layers=3, compress_ratios=[4, 128, 0, 0], sliding_window=6, index_topk=4
)
TOKENS, NEXT = small.TOKENS[:150], small.TOKENS[150:171]
STOPS = (3, 64, 67, 130, 150)
MARK = "a" * 64


@pytest.fixture(scope="module")
def model() -> Model:
    return small.model(CONFIG, small.weights(CONFIG))


def written(model: Model, folder: Path) -> list[LayerCache]:
    """Files named by their lengths, each from the one before; the cache after all tokens."""
    cache, tokens, since, parent = model.make_cache(), TOKENS.tolist(), 0, ""
    for stop in STOPS:
        running.feed(model, cache, [TOKENS[since : stop - 1]])
        place = caches.snapshot(cache)
        running.feed(model, cache, [TOKENS[stop - 1 : stop]])
        caches.save(
            folder / str(stop),
            cache,
            fingerprint=MARK,
            tokens=tokens[:stop],
            places=[place],
            parent=parent,
            since=since,
        )
        since, parent = stop, str(stop)
    return cache


def test_pieces_are_the_whole_bit_for_bit(model: Model, tmp_path: Path) -> None:
    cache = written(model, tmp_path)
    loaded, tokens, _, _, places = caches.load(tmp_path / "150", model=model, fingerprint=MARK)
    assert tokens == TOKENS.tolist()
    assert [place.offset for place in places] == [149]
    for mine, theirs in zip(loaded, cache, strict=True):
        mine_arrays, their_arrays = mine.rows[0].arrays(), theirs.rows[0].arrays()
        assert mine_arrays.keys() == their_arrays.keys()
        for name, array in mine_arrays.items():
            np.testing.assert_array_equal(np.array(array), np.array(their_arrays[name]), name)
    kept = running.feed(model, cache, [NEXT])
    np.testing.assert_array_equal(running.feed(model, loaded, [NEXT]), kept)


def test_each_piece_holds_what_grew(model: Model, tmp_path: Path) -> None:
    written(model, tmp_path)
    before = 0
    for stop in STOPS:
        held = mx.load(str(tmp_path / str(stop)), format="safetensors")
        assert held["tokens"].tolist() == TOKENS[before:stop].tolist()
        entries = held.get("0.entries")
        assert (0 if entries is None else entries.shape[1]) == stop // 4 - before // 4
        found = caches.outline(tmp_path / str(stop))
        assert (found.since, found.parent) == (before, str(before) if before else "")
        assert found.places == [stop - 1] and found.fingerprint == MARK
        before = stop


def test_a_branch_takes_the_beginning_of_another_file(model: Model, tmp_path: Path) -> None:
    written(model, tmp_path)
    cache, tokens = model.make_cache(), [*TOKENS[:67].tolist(), *NEXT.tolist()]
    ends = [0, 2, 3, 63, 64, 66, 67]  # read as the file was, so that the bits are its own
    running.feed(model, cache, [*(TOKENS[a:b] for a, b in pairwise(ends)), NEXT])
    path = tmp_path / "branch"
    caches.save(path, cache, fingerprint=MARK, tokens=tokens, parent="130", since=67)
    loaded, found, *_ = caches.load(path, model=model, fingerprint=MARK)
    assert found == tokens
    more = small.TOKENS[:9]
    kept = running.feed(model, cache, [more])
    np.testing.assert_array_equal(running.feed(model, loaded, [more]), kept)


def test_a_piece_without_its_beginning_is_refused(model: Model, tmp_path: Path) -> None:
    written(model, tmp_path)
    (tmp_path / "64").unlink()
    with pytest.raises(CacheError, match="there is none"):
        caches.load(tmp_path / "150", model=model, fingerprint=MARK)
    (tmp_path / "3").rename(tmp_path / "64")
    with pytest.raises(CacheError, match="expected 64 rows of tokens"):
        caches.load(tmp_path / "67", model=model, fingerprint=MARK)


def test_a_file_of_another_kind_has_no_outline(tmp_path: Path) -> None:
    path = tmp_path / "other"
    with pytest.raises(CacheError, match="expected a cache file"):
        caches.outline(path)
    path.write_bytes(b"not a cache file at all")
    with pytest.raises(CacheError, match="expected a cache file"):
        caches.outline(path)
