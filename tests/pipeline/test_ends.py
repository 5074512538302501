"""Both ends without a second process: what the worker answers, and which worker rank 0 takes."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from dsv4_mlx.errors import CacheError, PipelineError
from dsv4_mlx.pipeline.messages import PipeOperation, asked, payload_of
from dsv4_mlx.pipeline.part import ModelPart
from dsv4_mlx.pipeline.part_loading import load_part
from dsv4_mlx.pipeline.piped import _require_other_part
from dsv4_mlx.pipeline.piped_caches import PipedCaches
from dsv4_mlx.pipeline.worker import PipeWorker, work
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.pipeline.test_split import CONFIG, LAYERS, Ranks

CACHE, MOMENT = 1, 2


class Asking:
    """The control socket of a worker: what rank 0 asks, then its end."""

    peer = "rank 0 (there)"

    def __init__(self, *messages: bytes) -> None:
        self._messages: Iterator[bytes] = iter(messages)
        self.answers: list[bytes] = []

    def send(self, message: bytes) -> None:
        self.answers.append(message)

    def receive(self) -> bytes:
        for message in self._messages:
            return message
        raise EOFError

    def guarded(self) -> nullcontext[None]:
        return nullcontext()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[ModelPart]:
    folder: Path = write_tiny_checkpoint(tmp_path_factory.mktemp("model"), CONFIG, tokenizer=False)
    checkpoint = open_checkpoint(folder)
    return [load_part(checkpoint, Ranks(rank), backend="cpu") for rank in (0, 1)]


def test_what_fails_in_silence_is_the_answer_to_the_next_question(
    parts: list[ModelPart], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dsv4_mlx")
    control = Asking(
        asked(PipeOperation.NEW, CACHE),
        asked(PipeOperation.RESTORE, CACHE, MOMENT),
        asked(PipeOperation.SIZES, CACHE),
        asked(PipeOperation.SIZES, CACHE),
    )
    work(parts[1], Ranks(1), control)
    with pytest.raises(PipelineError, match=f"failed: KeyError: {MOMENT}; start both"):
        payload_of(control.answers[0], "rank 1")
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]
    assert len(payload_of(control.answers[1], "rank 1")) == 24


def test_what_is_dropped_is_freed_and_a_worker_ends_when_told(parts: list[ModelPart]) -> None:
    control = Asking(
        asked(PipeOperation.NEW, CACHE),
        asked(PipeOperation.SNAPSHOT, CACHE, MOMENT),
        asked(PipeOperation.DROP, CACHE, MOMENT),
        asked(PipeOperation.QUIT),
    )
    worker, held = PipeWorker(parts[1], Ranks(1), control), []
    while worker.follow():
        held.append(worker.held)
    assert held == [(1, 0), (1, 1), (0, 0)] and control.answers == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("layers", [0, LAYERS]), ("fingerprint", "another"), ("numerics", "plain"), ("layout", "x")],
)
def test_a_worker_of_another_model_is_refused(
    parts: list[ModelPart], name: str, value: object
) -> None:
    zero, one = parts
    facts = {
        "layers": [one.own.start, one.own.stop],
        "bytes_loaded": one.bytes_loaded,
        "fingerprint": one.fingerprint,
        "numerics": one.numerics.value,
        "layout": one.layout.name,
    }
    _require_other_part(zero, facts, "rank 1 (there)")
    with pytest.raises(PipelineError, match=rf"expected rank 1 \(there\) to have {name}"):
        _require_other_part(zero, facts | {name: value}, "rank 1 (there)")


def test_rows_that_may_be_taken_back_are_refused(parts: list[ModelPart]) -> None:
    caches = PipedCaches(parts[0], None)
    for refused in (lambda: caches.begin(None), lambda: caches.commit(None, 1)):
        with pytest.raises(CacheError, match="read without drafts"):
            refused()
