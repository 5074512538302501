"""When a rank is given up, on a clock that stands still until it is told otherwise."""

from dsv4_mlx.peers.watchdog import Watchdog


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_overdue_while_nothing_is_waited_for() -> None:
    clock = Clock()
    watchdog = Watchdog(30.0, clock)
    clock.now += 1e6
    assert watchdog.overdue_s() is None


def test_silence_is_overdue_above_the_limit_and_not_at_it() -> None:
    clock = Clock()
    watchdog = Watchdog(30.0, clock)
    with watchdog.watching():
        clock.now += 30.0
        assert watchdog.overdue_s() is None
        clock.now += 0.5
        assert watchdog.overdue_s() == 30.5
    assert watchdog.overdue_s() is None


def test_every_wait_begins_anew() -> None:
    clock = Clock()
    watchdog = Watchdog(30.0, clock)
    for _ in range(10):
        with watchdog.watching():
            clock.now += 5.0
            assert watchdog.overdue_s() is None
    assert watchdog.limit_s == 30.0
    with watchdog.watching():
        clock.now += 30.0
        assert watchdog.overdue_s() is None


def test_long_chunks_make_the_limit_longer() -> None:
    clock = Clock()
    watchdog = Watchdog(30.0, clock)
    with watchdog.watching():
        clock.now += 20.0
    assert watchdog.limit_s == 80.0
    with watchdog.watching():
        clock.now += 79.0
        assert watchdog.overdue_s() is None
        clock.now += 2.0
        assert watchdog.overdue_s() == 81.0


def test_time_between_waits_is_none() -> None:
    clock = Clock()
    watchdog = Watchdog(30.0, clock)
    with watchdog.watching():
        pass
    clock.now += 500.0
    with watchdog.watching():
        assert watchdog.overdue_s() is None
    assert watchdog.limit_s == 30.0
