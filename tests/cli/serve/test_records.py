"""What the log and the counters say of requests that did not end as asked."""

from types import SimpleNamespace
from typing import Final, cast

import pytest

from cli.serve.faults import Fault
from cli.serve.metrics import CacheFigures, metrics_text
from cli.serve.records import RecordedRequest, Records, RequestRecord
from cli.serve.served_model import ServedModel
from dsv4_mlx.chat.events import Done, FinishReason, Progress, TextDelta, Usage
from dsv4_mlx.serving.events import Begun, ServedEvent

PROMPT, CACHED, READ = 1507, 1, 63
GONE: Final = Fault("unavailable", "The server ended.")


def _records() -> Records:
    return Records(lambda: 0.0)


def _asked(records: Records, *events: ServedEvent) -> RecordedRequest:
    watch = records.begin("chat", "curl")
    for event in (Begun(PROMPT, CACHED), Progress(READ, PROMPT - CACHED), *events):
        watch.event(0, event)
    return watch


def _done(reason: FinishReason, tokens: int) -> Done:
    return Done(reason, Usage(PROMPT, CACHED, tokens))


def test_what_a_client_that_left_did_not_have_read_is_not_counted_as_read() -> None:
    records = _records()
    watch = _asked(records)
    watch.end(None, is_gone=True)
    line = watch.record.line()
    assert "cancelled, prompt 1,507 = 1 kept + 63 read, 1,443 not read" in line
    model = cast(ServedModel, SimpleNamespace(state="idle"))
    told = metrics_text(model, records, CacheFigures()).splitlines()
    for name, count in ("prompt", PROMPT), ("cached", CACHED), ("read", READ):
        assert f"dsv4_{name}_tokens_total {count}" in told


@pytest.mark.parametrize(
    "events", [[TextDelta("So")], [_done("length", 0)], [_done("cancelled", 1)]]
)
def test_a_prompt_that_was_answered_was_read_whole(events: list[ServedEvent]) -> None:
    records = _records()
    watch = _asked(records, *events)
    watch.end(None, is_gone=True)
    assert "1 kept + 1,506 read" in watch.record.line()
    assert "not read" not in watch.record.line()
    assert records.totals.read == PROMPT - CACHED


def test_an_answer_that_the_server_ended_says_so() -> None:
    watch = _asked(_records(), TextDelta("So"), _done("cancelled", 3))
    watch.end(GONE, is_gone=False)
    assert watch.record.line().startswith("#1 chat curl, unavailable, prompt")


def test_an_answer_that_ended_by_itself_says_how() -> None:
    record = RequestRecord(1, "chat", "curl", "", 0.0, state="done", finish="stop")
    assert record.line() == "#1 chat curl, stop, 0.0 s"
