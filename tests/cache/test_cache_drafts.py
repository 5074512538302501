"""What a drafter knows of a timeline goes where that goes; without it, drafts begin cold."""

import copy
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import DraftState, LayerCache
from dsv4_mlx.cache import seal as cache_seal
from dsv4_mlx.errors import CacheError
from dsv4_mlx.model.v4 import Model
from tests.model import running, small

CONFIG = small.one_layer(4, sliding_window=6)
PROMPT = small.TOKENS[:21]
MARK = "a" * 64


@pytest.fixture(scope="module")
def model() -> Model:
    return small.model(CONFIG, small.weights(CONFIG))


def state(offset: int, value: float, drafter: str = "mtp") -> DraftState:
    return DraftState(drafter, offset, {"ring": mx.full((1, 4), value), "last": mx.array([value])})


def facts(drafts: DraftState | None) -> tuple[str, int, dict[str, list[float]]] | None:
    if drafts is None:
        return None
    return drafts.drafter, drafts.offset, {n: a.tolist() for n, a in drafts.arrays.items()}


def grown(model: Model) -> list[LayerCache]:
    """Drafts are known at 21 tokens and at a moment after 9, not after 12."""
    cache = model.make_cache()
    caches.mark(cache, [9, 12])
    running.feed(model, cache, [PROMPT])
    caches.keep_drafts(cache, state(21, 1.0), {9: state(9, 0.5)})
    return cache


def test_a_new_timeline_is_cold_and_a_list_of_layers_has_no_drafts(model: Model) -> None:
    cache = model.make_cache()
    assert caches.drafts_of(cache) is None
    assert caches.drafts_of(list(cache)) is None
    with pytest.raises(CacheError, match="expected the cache of a model but found a plain list"):
        caches.keep_drafts(list(cache), state(0, 0.0))


def test_drafts_are_remembered_rewound_and_forked_with_the_timeline(model: Model) -> None:
    cache = grown(model)
    nine, twelve = caches.marked(cache)
    now, twin, copied = caches.snapshot(cache), caches.fork(cache), copy.deepcopy(cache)
    caches.keep_drafts(cache, state(30, 2.0))
    for one in (twin, copied):
        assert facts(caches.drafts_of(one)) == facts(state(21, 1.0))
    for place, expected in ((nine, state(9, 0.5)), (twelve, None), (now, state(21, 1.0))):
        caches.restore(cache, place)
        assert facts(caches.drafts_of(cache)) == facts(expected)
    assert facts(caches.drafts_of(twin)) == facts(state(21, 1.0))


def test_the_bytes_of_drafts_count_and_their_arrays_are_evaluated(model: Model) -> None:
    cache, plain = grown(model), model.make_cache()
    running.feed(model, plain, [PROMPT])
    moment = caches.marked(cache)[0]
    assert caches.nbytes(cache) == caches.nbytes(plain) + 20
    assert caches.sizes(cache).window == caches.sizes(plain).window + 20
    assert moment.nbytes == caches.snapshot(plain).nbytes + 20
    assert len(caches.evaluated(cache)) == len(caches.evaluated(plain)) + 2


def saved(model: Model, path: Path) -> Path:
    cache = grown(model)
    places = caches.marked(cache)
    caches.save(path, cache, fingerprint=MARK, tokens=PROMPT.tolist(), places=places)
    return path


def test_a_file_holds_the_drafts_of_the_timeline_and_its_places(
    model: Model, tmp_path: Path
) -> None:
    path = saved(model, tmp_path / "a")
    for _ in range(2):  # what was read is written again
        cache, *_, places = caches.load(path, model=model, fingerprint=MARK)
        assert facts(caches.drafts_of(cache)) == facts(state(21, 1.0))
        assert [facts(place.drafts) for place in places] == [facts(state(9, 0.5)), None]
        path = tmp_path / "b"
        caches.save(path, cache, fingerprint=MARK, tokens=PROMPT.tolist(), places=places)


def changed(path: Path, parts: str, more: dict[str, mx.array]) -> None:
    """The file with another `parts` and further tensors, sealed again."""
    arrays, header = mx.load(str(path), format="safetensors", return_metadata=True)
    mx.eval(list(arrays.values()))
    header |= {"checksum": cache_seal.OPEN, "parts": parts}
    mx.save_safetensors(str(path.with_name("c.safetensors")), arrays | more, header)
    cache_seal.close(path.with_name("c.safetensors"))
    path.with_name("c.safetensors").replace(path)


@pytest.mark.parametrize(
    ("parts", "warm"),
    [
        ('{"drafts": {"21": {"drafter": "mtp", "offset": 21}}, "voice": {"pitch": 3}}', True),
        ('{"voice": {"pitch": 3}}', False),
        ('{"drafts": {"21": {"drafter": "mtp"}}}', False),
        ('{"drafts": [21]}', False),
        ('{"drafts": {"x": {"drafter": "mtp", "offset": 21}}}', False),
        ("[]", False),
        ("not JSON", False),
    ],
)
def test_parts_that_nobody_knows_are_passed_over(
    model: Model, tmp_path: Path, parts: str, warm: bool
) -> None:
    path = saved(model, tmp_path / "a")
    changed(path, parts, {"part.voice.tone": mx.array([1.0]), "part.": mx.array([2.0])})
    cache, tokens, *_ = caches.load(path, model=model, fingerprint=MARK)
    assert tokens == PROMPT.tolist()
    assert facts(caches.drafts_of(cache)) == (facts(state(21, 1.0)) if warm else None)
    plain = model.make_cache()
    running.feed(model, plain, [PROMPT])
    for one, other in zip(cache, plain, strict=True):
        found, expected = one.rows[0].arrays(), other.rows[0].arrays()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_tensors_that_are_no_part_are_refused(model: Model, tmp_path: Path) -> None:
    path = saved(model, tmp_path / "a")
    changed(path, "{}", {"parts.drafts": mx.array([1.0])})
    with pytest.raises(CacheError, match=r"holds parts\.drafts, which this model has no place for"):
        caches.load(path, model=model, fingerprint=MARK)


def test_a_timeline_without_drafts_has_no_parts(model: Model, tmp_path: Path) -> None:
    cache = model.make_cache()
    running.feed(model, cache, [PROMPT])
    caches.save(tmp_path / "a", cache, fingerprint=MARK, tokens=PROMPT.tolist())
    arrays, header = mx.load(str(tmp_path / "a"), format="safetensors", return_metadata=True)
    assert json.loads(header["parts"]) == {} and not [n for n in arrays if n.startswith("part")]
