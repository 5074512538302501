"""Memory for requests: set aside before they begin, so that none fails for it in the middle."""

from collections.abc import Callable, Sequence

from dsv4_mlx.serving.job import AnswerJob
from dsv4_mlx.serving.limits import ServingLimits
from dsv4_mlx.serving.timelines import Timelines


class Admission:
    """What `running` requests have set aside, and what that leaves to `timelines`."""

    def __init__(
        self,
        timelines: Timelines,
        limits: ServingLimits,
        running: Callable[[], Sequence[AnswerJob]],
    ) -> None:
        self._timelines, self._limits, self._running = timelines, limits, running
        self._asked_for = 0  # bytes, by the request that is about to begin
        timelines.room = lambda: limits.memory_bytes - self._reserved

    @property
    def _reserved(self) -> int:
        return sum(job.reserved_bytes for job in self._running()) + self._asked_for

    def set_aside(self, job: AnswerJob, waiting: Sequence[AnswerJob]) -> bool:
        """Set memory aside for prompt and reply of one of those `waiting`; what is kept makes room
        first. Whether there is enough."""
        try:
            fits = self._makes_room(job, waiting)
            job.reserved_bytes = self._asked_for if fits else 0
        finally:
            self._asked_for = 0
        return fits

    def _makes_room(self, job: AnswerJob, waiting: Sequence[AnswerJob]) -> bool:
        need = self._limits.bytes_of(len(job.prompt.tokens) + job.most_reply)
        shared = 0 if job.pin is None else job.pin.shared_bytes
        self._asked_for = max(0, need - shared)
        fits = self._timelines.shrink()
        if fits or self._running():
            return fits
        # Nothing will be free later, so what requests wait for goes too, this one's at last.
        for one in (*(other for other in waiting if other is not job), job):
            if not fits and one.pin is not None:
                one.pin.release()
                self._asked_for = need if one is job else self._asked_for
                fits = self._timelines.shrink()
        return fits
