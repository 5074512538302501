"""What a scheduler gives those who hand requests in or look at it."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from dsv4_mlx.serving.job import AnswerJob

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ticket:
    """A request that was handed in."""

    jobs: tuple[AnswerJob, ...]
    _wake: Callable[[], None]

    def cancel(self) -> None:
        """End it within a token or a chunk, wherever it is; from any thread, also twice."""
        for job in self.jobs:
            job.cancelled.set()
        self._wake()

    @property
    def has_ended(self) -> bool:
        return all(job.state == "ended" for job in self.jobs)


@dataclass(frozen=True)
class Load:
    """What the scheduler has to do, in answers, requests and tokens."""

    waiting: int
    """Answers, as are `reading` and `answering`."""
    reading: int
    answering: int
    tokens_to_read: int
    reserved_bytes: int
    requests_waiting: int
    """Requests of which an answer has not begun, as `ServingLimits.most_waiting` counts them."""
    requests_running: int
    """Requests of which all answers have begun, and one is not over."""

    @classmethod
    def of(cls, waiting: Sequence[AnswerJob], running: Sequence[AnswerJob]) -> "Load":
        """The load of these jobs."""
        states = [job.state for job in running]
        requests_waiting = requests_of(waiting)
        return cls(
            len(waiting),
            states.count("reading"),
            states.count("answering"),
            sum(job.remaining for job in (*waiting, *running)),
            sum(job.reserved_bytes for job in running),
            requests_waiting,
            requests_of((*waiting, *running)) - requests_waiting,
        )


def requests_of(jobs: Iterable[AnswerJob]) -> int:
    """How many requests these are the answers of."""
    return len({id(job.leader or job) for job in jobs})


class AskedCall:
    """A piece of work that somebody wants the model's thread to do."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._work = work

    def run(self) -> None:
        """Do it; the future has what it gives or raises."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self._work())
        except BaseException as error:  # whatever it is, who asked gets it and waits no longer
            self.future.set_exception(error)
            if not isinstance(error, Exception):
                raise  # the program ends, and so does the thread
