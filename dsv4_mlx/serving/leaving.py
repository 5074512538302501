"""Answers that are whole and wait for the disk: they hold no place among those that run."""

from collections.abc import Callable, Sequence

from dsv4_mlx.serving.running_job import RunningJob, guarded


class Leaving:
    """See the module; `wake` is called, on any thread, when the disk has something."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._jobs: list[RunningJob] = []

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def part(self, running: Sequence[RunningJob]) -> list[RunningJob]:
        """Take those who only wait for the disk; who runs yet."""
        for one in running:
            if one.job.state == "storing" and one.stored is not None:
                self._jobs.append(one)
                one.stored.add_done_callback(lambda stored: self._wake())
        return [one for one in running if one.job.state in ("reading", "answering")]

    def end_stored(self) -> None:
        """Tell the end of those that the disk has."""
        for one in self._jobs:
            guarded(one, one.end_stored)
        self._jobs = [one for one in self._jobs if one.job.state != "ended"]
