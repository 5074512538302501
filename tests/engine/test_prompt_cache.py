"""The places a session can return to, and what it forgets first."""

from dsv4_mlx.prompt_cache import PromptCache
from dsv4_mlx.scripted.fake import FakeSnapshot


def at(offset: int, nbytes: int = 100) -> FakeSnapshot:
    return FakeSnapshot(tuple(range(offset)), nbytes)


def offsets(cache: PromptCache) -> list[tuple[int, bool]]:
    return [(place.offset, place.snapshot is not None) for place in cache.places]


def test_the_nearest_snapshot_lies_at_or_before() -> None:
    cache = PromptCache(1000)
    for offset in (10, 20, 30):
        cache.add(at(offset))
    assert [cache.nearest(n) and cache.nearest(n).offset for n in (9, 10, 29, 30, 99)] == [
        None,
        10,
        20,
        30,
        30,
    ]


def test_the_oldest_keep_only_their_count() -> None:
    cache = PromptCache(250)
    for offset in (10, 20, 30, 40):
        cache.add(at(offset))
    assert offsets(cache) == [(10, False), (20, False), (30, True), (40, True)]
    assert cache.nbytes == 200
    assert cache.nearest(20) is None
    assert not cache.holds(10)
    assert cache.holds(40)


def test_one_snapshot_over_the_budget_is_not_held() -> None:
    cache = PromptCache(50)
    cache.add(at(10))
    assert offsets(cache) == [(10, False)]


def test_a_place_replaces_those_it_leaves_behind() -> None:
    cache = PromptCache(1000)
    for offset in (10, 20, 30):
        cache.add(at(offset))
    cache.add(at(20))
    assert offsets(cache) == [(10, True), (20, True)]


def test_a_copy_goes_its_own_way() -> None:
    cache = PromptCache(1000)
    cache.add(at(10))
    other = cache.copy()
    other.add(at(20))
    cache.drop_behind(5)
    assert (offsets(cache), offsets(other)) == ([], [(10, True), (20, True)])
