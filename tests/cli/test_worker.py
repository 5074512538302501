"""The thread that owns the model: whether it is busy, and that it ends."""

from concurrent.futures import CancelledError
from threading import Event, Lock

import pytest

from cli.worker import Worker
from tests.cli.running import run

PATIENCE_S = 5.0


class Gate:
    """A lock whose `with` announces itself and waits for `opened`, as a late thread would."""

    def __init__(self) -> None:
        self.lock, self.reached, self.opened = Lock(), Event(), Event()
        self.acquire, self.release = self.lock.acquire, self.lock.release

    def __enter__(self) -> None:
        self.reached.set()
        self.opened.wait(PATIENCE_S)
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_jobs_run_in_turn_and_an_idle_worker_ends_at_once() -> None:
    worker = Worker()
    assert [worker.submit(lambda n=n: n).result(PATIENCE_S) for n in range(3)] == [0, 1, 2]
    assert worker.ends_within(0)


def test_a_running_job_is_waited_for_so_long_and_no_longer() -> None:
    worker, started, finish = Worker(), Event(), Event()
    job = worker.submit(lambda: started.set() or finish.wait(PATIENCE_S))
    assert started.wait(PATIENCE_S)
    assert not worker.ends_within(0.01)
    finish.set()
    assert job.result(PATIENCE_S)
    assert worker.ends_within(PATIENCE_S)


def test_a_job_that_had_not_begun_never_does_and_its_thread_ends() -> None:
    worker, gate, ran = Worker(), Gate(), []
    worker._busy = gate
    job = worker.submit(lambda: ran.append(1))
    assert gate.reached.wait(PATIENCE_S)
    try:
        assert worker.ends_within(PATIENCE_S)
        gate.opened.set()
        with pytest.raises(CancelledError):
            job.result(PATIENCE_S)
        assert not ran
    finally:  # the thread would else keep the program from ending
        gate.opened.set()
        if gate.lock.locked():
            gate.release()


def test_ctrl_c_while_the_model_ends_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(worker: Worker, seconds: float) -> bool:
        raise KeyboardInterrupt

    left: list[int] = []
    monkeypatch.setattr(Worker, "ends_within", interrupted)
    monkeypatch.setattr("os._exit", left.append)
    assert run("config", "--path").status == 0
    assert left == [0]
