"""The one thread that owns the model."""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

Result = TypeVar("Result")


class Worker:
    """Runs jobs one after the other, on a thread that starts with the first."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        # Held while a job runs. Ctrl-C may come while `submit` still waits for the thread to start,
        # so what the caller remembers of its jobs does not tell whether one runs.
        self._busy = Lock()
        self._ended = False

    def submit(self, job: Callable[[], Result]) -> "Future[Result]":
        """Queue `job`; the future holds what it returns or raises."""

        def run() -> Result:
            with self._busy:
                if self._ended:  # the thread had taken the job and came too late with it
                    raise CancelledError
                return job()

        return self._executor.submit(run)

    def ends_within(self, seconds: float) -> bool:
        """Take no more jobs, drop those that wait, and tell whether the running one ended."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if not self._busy.acquire(timeout=seconds):
            return False
        self._ended = True
        self._busy.release()
        return True
