"""Rank 0's side of the connection, without a second process."""

import gc
from contextlib import nullcontext

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import PipelineError
from dsv4_mlx.pipeline.link import Link
from dsv4_mlx.pipeline.messages import PipeOperation, done, failed, understood

IDS, WIDTH = np.array([[1, 2]], np.int32), (1, 4)


class Answers:
    """The control socket: what was asked, and answers that are ready, or errors in their place."""

    peer = "rank 1 (there)"

    def __init__(self) -> None:
        self.asked: list[tuple[PipeOperation, list[int]]] = []
        self.ready: list[bytes | BaseException] = []

    def send(self, message: bytes) -> None:
        self.asked.append(understood(message))

    def receive(self) -> bytes:
        answer = self.ready.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def guarded(self) -> nullcontext[None]:
        return nullcontext()


class OneRank:
    """A group, of which only the rank is asked."""

    def rank(self) -> int:
        return 0


class Arrays:
    """Arrays of the worker in their order, each filled with its number."""

    def __init__(self) -> None:
        self.received = 0
        self.interrupted = False

    def receive(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        self.received += 1
        return mx.full(shape, self.received, dtype)


@pytest.fixture
def link() -> Link:
    link = Link(OneRank(), Answers(), mx.bfloat16)
    link._transfer = Arrays()
    return link


def number(streams: mx.array) -> int:
    return int(streams[0, 0, 0, 0].item())


def test_streams_are_those_of_their_call_whoever_waits_first(link: Link) -> None:
    cache = link.held()
    first, second = (link.call(cache, IDS, WIDTH) for _ in range(2))
    link._control.ready = [done(), done()]
    assert [number(link.streams(one)) for one in (second, first)] == [2, 1]


def test_a_step_that_failed_is_a_sentence_and_the_next_one_is_whole(link: Link) -> None:
    first, second = (link.call(link.held(), IDS, WIDTH) for _ in range(2))
    link._control.ready = [failed("memory ran out."), done()]
    assert number(link.streams(second)) == 1
    with pytest.raises(PipelineError, match=r"rank 1 \(there\) failed: memory ran out"):
        link.streams(first)


def test_an_interruption_loses_no_streams(link: Link) -> None:
    first, second = (link.call(link.held(), IDS, WIDTH) for _ in range(2))
    link._control.ready = [KeyboardInterrupt(), done(), done()]
    with pytest.raises(KeyboardInterrupt):
        link.streams(first)
    link._transfer.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        link.streams(first)
    assert [number(link.streams(one)) for one in (second, first)] == [2, 1]


def test_streams_that_nobody_waits_for_are_taken_in(link: Link) -> None:
    first, second = (link.call(link.held(), IDS, WIDTH) for _ in range(2))
    link._control.ready = [done(), done()]
    link.forget(first)
    link.forget(first)
    assert number(link.streams(second)) == 2


def test_a_question_left_in_the_middle_ends_the_connection(link: Link) -> None:
    link._control.ready = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        link.sizes(link.held())
    with pytest.raises(PipelineError, match="in the middle of an answer"):
        link.tell(PipeOperation.NEW, 1)


def test_what_nobody_holds_is_dropped_before_the_next_message(link: Link) -> None:
    one, other = link.held(), link.held()
    gone = one.number
    del one
    gc.collect()
    link.tell(PipeOperation.NEW, other.number)
    assert link._control.asked == [
        (PipeOperation.DROP, [gone]),
        (PipeOperation.NEW, [other.number]),
    ]
