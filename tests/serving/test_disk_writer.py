"""Files that are finished beside the model's thread: others go on, and no end is told too early."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from dsv4_mlx.cache.pieces import CacheOutline
from dsv4_mlx.chat.events import Done
from dsv4_mlx.serving.arrivals import RequestJobs
from dsv4_mlx.serving.disk_tier import DiskTier
from dsv4_mlx.serving.disk_writer import MOST_UNFINISHED, DiskWriter
from dsv4_mlx.serving.events import Collected
from dsv4_mlx.serving.limits import ServingLimits
from dsv4_mlx.serving.timelines import Timelines
from tests.engine.sessions import expected
from tests.serving.lines import answered, engine
from tests.serving.served import Serving, alone, asking, ended, said

PROMPT = list(range(200, 240))


class Hand(Executor):
    """Does what it was given when it is told to."""

    def __init__(self) -> None:
        self.left: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn, /, *args, **kwargs):
        future: Future[Any] = Future()
        self.left.append((future, lambda: fn(*args, **kwargs)))
        return future

    def work(self, error: Exception | None = None) -> None:
        """Do all of it, in its order; with an error do nothing and fail."""
        while self.left:
            future, work = self.left.pop(0)
            if error is None:
                future.set_result(work())
            else:
                future.set_exception(error)


def serving(folder: Path, hand: Executor) -> Serving:
    """A scheduler whose files `hand` finishes."""
    found = Serving()
    lines = found.scheduler.timelines
    lines.tier = tier(lines, folder, hand)
    return found


def tier(lines: Timelines, folder: Path, hand: Executor | None = None) -> DiskTier:
    return DiskTier(folder, lines._engine, 1 << 30, clock=lambda: 0.0, least_tokens=4, hand=hand)


def storing(folder: Path) -> tuple[Hand, Serving, Collected]:
    """An answer that only the disk is at."""
    hand = Hand()
    one = serving(folder, hand)
    ticket, heard = one.submit(PROMPT, asking(5))
    while ticket.jobs[0].state != "storing":
        one.scheduler.step()
    return hand, one, heard


def files(folder: Path) -> int:
    return len(list(folder.glob("*.kv")))


def has_ended(outlet: Collected) -> bool:
    return any(isinstance(event, Done) for event in outlet.of())


def test_others_are_answered_while_a_file_is_finished_and_then_its_end_is_told(
    tmp_path: Path,
) -> None:
    hand = Hand()
    both = serving(tmp_path, hand)
    first, first_heard = both.submit(PROMPT, asking(2))
    second, second_heard = both.submit(PROMPT[::-1], asking(30))
    while second.jobs[0].state != "storing":
        both.scheduler.step()
    assert first.jobs[0].state == "storing" and files(tmp_path) == 0
    assert not has_ended(first_heard) and not has_ended(second_heard)
    text = "".join(getattr(event, "text", "") for event in second_heard.of())
    assert text == said(alone(PROMPT[::-1], asking(30)).of())[0]
    hand.work()
    both.finish()
    assert files(tmp_path) == 2
    assert [ended(one.of()).usage.completion_tokens for one in (first_heard, second_heard)] == [
        2, 30,
    ]  # fmt: skip


def test_an_answer_that_only_the_disk_is_at_holds_no_place(tmp_path: Path) -> None:
    hand = Hand()
    one = serving(tmp_path, hand)
    one.scheduler.limits = ServingLimits(most_running=1)
    first, _ = one.submit(PROMPT, asking(2))
    second, _ = one.submit(PROMPT[::-1], asking(2))
    while second.jobs[0].state != "storing":
        one.scheduler.step()
    assert first.jobs[0].state == "storing"
    hand.work()
    one.finish()
    assert first.has_ended and second.has_ended


def test_what_the_disk_does_not_take_costs_the_file_and_nothing_else(tmp_path: Path) -> None:
    hand, one, heard = storing(tmp_path)
    stored = one.scheduler.timelines.tier
    assert stored is not None and len(stored) == 1
    hand.work(OSError(28, "No space left on device"))
    one.finish()
    assert ended(heard.of()).finish_reason == "length" and len(stored) == 0


def test_the_end_waits_for_what_is_on_its_way(tmp_path: Path) -> None:
    hand, one, heard = storing(tmp_path)
    disk = Thread(target=hand.work)
    disk.start()
    one.scheduler.end_all()
    disk.join()
    assert has_ended(heard) and files(tmp_path) == 1


def test_the_end_waits_for_no_word_that_came_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, one, heard = storing(tmp_path)
    hand.work()
    taken = one.scheduler._arrivals.taken

    def at_once(*, waits: bool = False) -> Iterator[RequestJobs]:
        assert not waits
        return taken()

    monkeypatch.setattr(one.scheduler._arrivals, "taken", at_once)
    one.scheduler.end_all()
    assert has_ended(heard) and files(tmp_path) == 1


def test_a_file_on_the_disk_keeps_its_tokens_once(tmp_path: Path) -> None:
    lines = Timelines(engine(), 0)
    lines.tier = tier(lines, tmp_path)
    with lines.open(PROMPT) as line:
        list(line.session.reading(PROMPT, ()))
        assert lines.store(line) is None
    place = lines.tier.find([*PROMPT, 7])
    assert place is not None and place.file.written is None and place.file.nbytes > 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_turn_goes_on_from_a_file_that_is_not_finished_yet(tmp_path: Path, fails: bool) -> None:
    hand = Hand()
    lines = Timelines(engine(), 1 << 30)
    lines.tier = tier(lines, tmp_path, hand)
    prompt = list(PROMPT)
    for turn in range(3):
        with lines.open(prompt) as line:
            list(line.session.reading(prompt, ()))
            prompt += [token.id for token in line.session.stream(5, stop_ids=())]
            lines.keep(line)
            assert lines.store(line) is not None
        prompt.append(50 + turn)
    first, work = hand.left.pop(0)
    if fails:
        first.set_exception(OSError(28, "No space left on device"))
    else:
        first.set_result(work())
    hand.work()
    lines.tier.settle()
    assert len(lines.tier) == (0 if fails else 3)
    again = Timelines(engine(), 1 << 30)
    again.tier = tier(again, tmp_path)
    assert len(again.tier) == len(lines.tier)
    kept = 0 if fails else len(prompt) - 1
    assert answered(again, prompt, 3) == (kept, expected(prompt, 3))


def test_what_memory_does_not_hold_is_waited_for(tmp_path: Path) -> None:
    hand = Hand()
    lines = Timelines(engine(), 0)
    lines.tier = tier(lines, tmp_path, hand)
    with lines.open(PROMPT) as line:
        list(line.session.reading(PROMPT, ()))
        lines.keep(line)
        lines.store(line)
    disk = Thread(target=hand.work)
    disk.start()
    assert answered(lines, [*PROMPT, 7], 3) == (40, expected([*PROMPT, 7], 3))
    disk.join()


def test_a_disk_that_lags_behind_is_waited_for(tmp_path: Path) -> None:
    hand, waited = Hand(), list[Future[Any]]()

    class Waited(Future[Any]):
        def exception(self, timeout: float | None = None) -> BaseException | None:
            waited.append(self)
            hand.work()
            return super().exception(timeout)

    def submit(fn: Callable[[], Any]) -> Future[Any]:
        hand.left.append((Waited(), fn))
        return hand.left[-1][0]

    hand.submit = submit  # type: ignore[method-assign, assignment]
    writer = DiskWriter(lambda path: CacheOutline("", [], [], "", 0), hand)
    paths = [tmp_path / f"{number}.kv" for number in range(MOST_UNFINISHED + 2)]
    written = [writer.write(path, Path.touch) for path in paths[:MOST_UNFINISHED]]
    assert waited == [] and len(hand.left) == MOST_UNFINISHED
    writer.write(paths[-2], Path.touch)
    assert waited[0] is written[0] and len(hand.left) == 1
    writer.write(paths[-1], Path.touch)
    assert len(hand.left) == 2
