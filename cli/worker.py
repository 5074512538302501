"""The one thread that owns the model."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

Result = TypeVar("Result")


class Worker:
    """Runs jobs one after the other, on a thread that starts with the first."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._jobs: list[Future[Any]] = []

    def submit(self, job: Callable[[], Result]) -> "Future[Result]":
        """Queue `job`; the future holds what it returns or raises."""
        future = self._executor.submit(job)
        self._jobs = [*(other for other in self._jobs if not other.done()), future]
        return future

    def ends_within(self, seconds: float) -> bool:
        """Take no more jobs, drop those that wait, and tell whether the running one ended."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        return not wait(self._jobs, timeout=seconds).not_done
