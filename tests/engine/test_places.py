"""The places a session can return to, and what it forgets first."""

from dsv4_mlx.engine.places import Places
from dsv4_mlx.scripted.fake import FakeSnapshot


def at(offset: int, nbytes: int = 100) -> FakeSnapshot:
    return FakeSnapshot(tuple(range(offset)), nbytes)


def offsets(places: Places) -> list[tuple[int, bool]]:
    return [(place.offset, place.snapshot is not None) for place in places]


def test_the_nearest_snapshot_lies_at_or_before() -> None:
    places = Places(1000)
    for offset in (10, 20, 30):
        places.add(at(offset))
    assert [places.nearest(n) and places.nearest(n).offset for n in (9, 10, 29, 30, 99)] == [
        None,
        10,
        20,
        30,
        30,
    ]


def test_the_oldest_keep_only_their_count() -> None:
    places = Places(250)
    for offset in (10, 20, 30, 40):
        places.add(at(offset))
    assert offsets(places) == [(10, False), (20, False), (30, True), (40, True)]
    assert places.nbytes == 200
    assert places.nearest(20) is None
    assert not places.has(10)
    assert places.has(40)


def test_one_snapshot_over_the_budget_is_not_held() -> None:
    places = Places(50)
    places.add(at(10))
    assert offsets(places) == [(10, False)]


def test_a_place_replaces_those_at_or_after_it() -> None:
    places = Places(1000)
    for offset in (10, 20, 30):
        places.add(at(offset))
    places.add(at(20))
    assert offsets(places) == [(10, True), (20, True)]


def test_a_copy_goes_its_own_way() -> None:
    places = Places(1000)
    places.add(at(10))
    other = places.copy()
    other.add(at(20))
    places.drop_after(5)
    assert (offsets(places), offsets(other)) == ([], [(10, True), (20, True)])
