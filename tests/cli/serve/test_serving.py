"""Requests from their bodies to their ends: those who wait, leave, or are turned away."""

import asyncio
import json
from collections.abc import Mapping
from threading import Event as Flag
from types import SimpleNamespace
from typing import Any

import pytest

from cli.serve.faults import Fault
from cli.serve.health import health
from cli.serve.limits import HttpLimits, RateLimit, parsed_body
from cli.serve.records import Records
from cli.serve.served_model import ServedModel
from dsv4_mlx.scripted.script import ScriptedReply
from dsv4_mlx.serving.limits import ServingLimits
from dsv4_mlx.serving.ticket import Load
from tests.cli.serve.served_app import PATIENCE_S, Answer, Client, Served, script

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
LONG = ScriptedReply("One word after the other. ", repeat=4000, delay_ms=1)


async def settled(served: Served) -> Any:
    """What there is to do once the scheduler has looked at all that came."""
    scheduler = served.model.running.scheduler
    scheduler.call(lambda: None).result(PATIENCE_S)
    scheduler.call(lambda: None).result(PATIENCE_S)
    return scheduler.load


def test_a_client_that_leaves_a_stream_frees_the_model() -> None:
    served = Served(script(LONG))

    async def work(client: Client) -> Any:
        gone = await client.post(
            CHAT, {**BODY, "stream": True}, leaves_at=lambda answer: b"content" in answer.body
        )
        return gone, await settled(served)

    gone, load = served.run(work)
    assert gone.status == 200 and not gone.is_whole
    assert (load.waiting, load.reading, load.answering) == (0, 0, 0)
    assert served.app.records.totals.requests == {("chat", "cancelled"): 1}


def leaving_when(served: Served, state: str) -> Any:
    """An application whose client leaves a request that is not streamed, once it is in `state`."""
    left: list[Any] = []

    def note(record: Any) -> None:
        if record.state == state and left:
            left.pop().set()

    served.app.records.on_event = note
    return left


@pytest.mark.parametrize("state", ["reading", "answering"])
def test_a_client_that_leaves_before_the_answer_frees_the_model(state: str) -> None:
    served = Served(script(LONG, chunk=16, prefill_ms=2))
    left = leaving_when(served, state)

    async def work(client: Client) -> Any:
        body = {"messages": [{"role": "user", "content": "word " * 3000}]}
        gone = await client.post(CHAT, body, leaves=left)
        return gone, await settled(served)

    gone, load = served.run(work)
    assert gone.status == 0
    assert (load.waiting, load.reading, load.answering) == (0, 0, 0)


class SlowlyLoaded(Served):
    """A server whose model is loaded once `may_load` is set."""

    def __post_init__(self) -> None:
        self.may_load = Flag()
        super().__post_init__()

    def engine(self) -> Any:
        assert self.may_load.wait(PATIENCE_S)
        return super().engine()


def test_requests_wait_for_the_model_and_may_leave_before_it_is_there() -> None:
    served = SlowlyLoaded(script("Hi."), limits=HttpLimits(first_event_s=0.0, heartbeat_s=0.0))

    async def work(client: Client) -> Any:
        def is_told(answer: Answer) -> bool:
            return b": loading" in answer.body

        gone = await client.post(CHAT, {**BODY, "stream": True}, leaves_at=is_told)
        loading = await client.get("/health")
        waiting = asyncio.ensure_future(client.post(CHAT, BODY))
        served.may_load.set()
        return gone, loading, await waiting, await settled(served)

    gone, loading, answer, load = served.run(work)
    assert gone.status == 200 and not gone.is_whole
    assert (loading.status, loading.json["status"]) == (503, "loading")
    assert answer.status == 200
    assert (load.waiting, load.reading, load.answering) == (0, 0, 0)


def test_where_many_are_answered_frames_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServedModel, "is_crowded", True)
    limits = HttpLimits(first_event_s=PATIENCE_S, frame_gap_s=0.05)
    served = Served(script(ScriptedReply("word ", repeat=200)), limits=limits)
    answer = served.run(lambda client: client.post(CHAT, {**BODY, "stream": True}))
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in answer.chunks]
    assert "".join(texts) == "word " * 200
    assert len(answer.chunks) < 200


def test_a_client_that_leaves_the_queue_is_not_served() -> None:
    served = Served(script(LONG), serving=ServingLimits(most_running=1))

    async def work(client: Client) -> Any:
        def leaves(answer: Answer) -> bool:
            return second.done()

        first = asyncio.ensure_future(client.post(CHAT, {**BODY, "stream": True}, leaves_at=leaves))
        left: list[Any] = []
        second = asyncio.ensure_future(client.post(CHAT, BODY, leaves=left))
        while not (left and served.model.is_ready and served.model.running.scheduler.load.waiting):
            await asyncio.sleep(0)
        left.pop().set()
        gone = await second
        await first
        return gone, await settled(served)

    gone, load = served.run(work)
    assert gone.status == 0
    assert (load.waiting, load.reading, load.answering) == (0, 0, 0)


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_reads_nothing_is_taken_for_gone(streams: bool) -> None:
    limits = HttpLimits(write_s=0.0, first_event_s=PATIENCE_S)
    served = Served(script(LONG if streams else "Hi."), limits=limits)

    async def work(client: Client) -> Any:
        answer = await client.post(CHAT, {**BODY, "stream": streams}, stalls=True)
        return answer, await settled(served)

    answer, load = served.run(work)
    assert answer.was_aborted and not answer.is_whole
    assert (load.waiting, load.reading, load.answering) == (0, 0, 0)
    assert [end for _, end in served.app.records.totals.requests] == ["cancelled"]


def test_too_many_that_wait_are_told_when_to_come_again() -> None:
    served = Served(script(LONG), serving=ServingLimits(most_running=1, most_waiting=0))
    answer = served.run(lambda client: client.post(CHAT, {**BODY, "stream": True}))
    assert answer.status == 429 and answer.headers["retry-after"]
    assert answer.json["error"]["code"] == "server_busy"


def test_a_stream_tells_how_far_a_prompt_is_read() -> None:
    limits = HttpLimits(first_event_s=0.0, heartbeat_s=PATIENCE_S, progress_s=0.0)
    served = Served(script("Hi.", chunk=8, prefill_ms=20), limits=limits)
    body = {"messages": [{"role": "user", "content": "word " * 100}], "stream": True}
    answer = served.run(lambda client: client.post(CHAT, body))
    comments = [frame for frame in answer.frames if frame.startswith(": ")]
    assert comments and all("reading" in one for one in comments)
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "stop"


# Bodies


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"{",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b"\xff\xfe",
        b'{"a": "\xed\xa0\x80"}',
        b"[" * 100_000,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b"<html>",
        b'{"a": 1e999}',
    ],
)
def test_a_body_that_is_none_is_an_error_of_the_dialect(content: bytes) -> None:
    async def work(client: Client) -> list[Answer]:
        return [await client.post(CHAT, content), await client.post(CHAT, BODY)]

    wrong, right = Served(script("Hi.")).run(work)
    assert wrong.status == 400 and wrong.json["error"]["type"] == "invalid_request_error"
    assert right.status == 200


def test_half_a_character_is_read_as_the_character_for_what_is_lost() -> None:
    found = parsed_body(rb'{"a": "\ud83d cut", "b": "\ud83d\ude00", "c": "\\ud83d", "d": "\ude00"}')
    assert found == {"a": "� cut", "b": "😀", "c": "\\ud83d", "d": "�"}


def test_a_body_that_is_too_large_is_refused_by_its_length_and_by_its_size() -> None:
    limits = HttpLimits(body_bytes=100, first_event_s=PATIENCE_S)

    async def work(client: Client) -> list[Answer]:
        told = await client.post(CHAT, b"{}", headers={"content-length": "101"})
        sent = await client.ask("POST", CHAT, [b"{", b" " * 100, b"}"])
        return [told, sent]

    for answer in Served(script("Hi."), limits=limits).run(work):
        assert answer.status == 413 and answer.headers["connection"] == "close"


def test_a_body_that_does_not_come_ends_the_request() -> None:
    limits = HttpLimits(body_s=0.0)
    served = Served(script("Hi."), limits=limits)
    answer = served.run(lambda client: client.ask("POST", CHAT, [b"{", None]))
    assert answer.status == 408


# The other paths


def test_models_are_told_by_all_their_names() -> None:
    async def work(client: Client) -> list[Answer]:
        paths = ("/v1/models", "/v1/models/claude-x", "/v1/models/none")
        return [await client.get(path) for path in paths]

    every, one, none = Served(script("Hi.", context=4096), aliases=("claude-x",)).run(work)
    assert [entry["id"] for entry in every.json["data"]] == ["scripted", "claude-x"]
    assert one.json["id"] == "claude-x" and one.json["max_model_len"] == 4096
    assert none.status == 404 and "scripted, claude-x" in none.json["error"]["message"]


def test_health_knows_the_thread_of_the_model() -> None:
    served = Served(script("Hi."))

    async def work(client: Client) -> list[Answer]:
        await served.model.service()
        ready = await client.get("/health")
        served.model.stop("it ends")
        return [ready, await client.get("/health"), await client.post(CHAT, BODY)]

    ready, failed, refused = served.run(work)
    assert (ready.status, ready.json["status"]) == (200, "ready")
    assert (failed.status, failed.json["status"]) == (503, "failed")
    assert refused.status == 503 and refused.json["error"]["message"] == "it ends"


@pytest.mark.parametrize(("silent_s", "status"), [(10.0, 200), (301.0, 503)])
def test_a_model_that_has_work_and_gives_no_sign_of_life_is_stuck(
    silent_s: float, status: int
) -> None:
    scheduler = SimpleNamespace(load=Load(4, 1, 0, 100, 0, 2, 1))
    running = SimpleNamespace(scheduler=scheduler)
    model: Any = SimpleNamespace(state="ready", running=running, silence_s=silent_s)
    found, body = health(model)
    assert found == status and body["status"] == ("ready" if status == 200 else "stuck")
    assert (body["waiting"], body["running"]) == (2, 1)  # requests, not their answers


def test_silence_is_counted_while_there_is_work() -> None:
    served, now = Served(script(LONG)), [1e9]

    async def work(client: Client) -> list[float]:
        await client.post(CHAT, {**BODY, "stream": True}, leaves_at=lambda one: bool(one.body))
        await settled(served)
        served.model._clock = lambda: now[0]
        idle = served.model.silence_s
        served.model.running.scheduler._load = Load(0, 1, 0, 100, 0, 0, 1)
        silent = served.model.silence_s
        served.model.hear()
        return [idle, silent, served.model.silence_s]

    idle, silent, heard = served.run(work)
    assert idle == 0 and silent > 1e8 and heard == 0


def test_an_idle_model_is_let_go_of_and_loads_for_the_next_request() -> None:
    served = Served(script("Hi."))

    async def work(client: Client) -> list[Any]:
        await client.post(CHAT, BODY)
        served.model.let_go()()
        idle = await client.get("/health")
        return [idle, await client.post(CHAT, BODY), await client.get("/health")]

    idle, answer, ready = served.run(work)
    assert (idle.status, idle.json["status"]) == (200, "idle")
    assert answer.status == 200 and ready.json["status"] == "ready"


def test_elsewhere_a_client_is_known_by_its_headers() -> None:
    async def work(client: Client) -> list[Answer]:
        anthropic = {"anthropic-version": "2023-06-01"}
        return [await client.get("/v1/models/x", headers=one) for one in (anthropic, {})]

    anthropic, other = Served(script("Hi.")).run(work)
    assert anthropic.json["type"] == "error" and "param" in other.json["error"]


def test_an_answer_has_the_number_of_its_line_in_the_log() -> None:
    numbers: list[int] = []
    served = Served(script("Hi."))
    served.app.records.on_end = lambda record: numbers.append(record.number)

    async def work(client: Client) -> list[Answer]:
        return [await client.post(CHAT, one) for one in (BODY, {}, {**BODY, "stream": True})]

    answers = served.run(work)
    assert [int(answer.headers["x-request-id"]) for answer in answers] == numbers == [1, 2, 3]


def test_a_model_whose_thread_has_ended_refuses_what_comes() -> None:
    served = Served(script("Hi."))

    async def work(client: Client) -> list[Answer]:
        await served.model.service()

        def fail() -> bool:
            raise RuntimeError("a mistake of ours")

        served.model.running.scheduler.step = fail
        served.model.wake()
        while served.model.state != "failed":
            await asyncio.sleep(0)
        return [await client.post(CHAT, BODY), await client.get("/health")]

    refused, health = served.run(work)
    assert refused.status == 503 and "a mistake of ours" in refused.json["error"]["message"]
    assert (health.status, health.json["error"]) == (503, "a mistake of ours")


def test_paths_and_methods_that_there_are_not() -> None:
    async def work(client: Client) -> list[Answer]:
        return [await client.get("/v2"), await client.get(CHAT), await client.ask("HEAD", "/")]

    path, method, head = Served(script("Hi.")).run(work)
    assert path.status == 404 and "/v1/chat/completions" in path.json["error"]["message"]
    assert method.status == 405 and method.headers["allow"] == "POST"
    assert head.status == 200


def test_metrics_count_what_was_asked_and_answered() -> None:
    async def work(client: Client) -> str:
        await client.post(CHAT, BODY)
        await client.post(CHAT, {**BODY, "temperature": -1})
        return (await client.get("/metrics")).body.decode()

    text = Served(script("Hi.")).run(work)
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples['dsv4_requests_total{dialect="chat",end="done"}'] == "1"
    assert samples['dsv4_requests_total{dialect="chat",end="invalid"}'] == "1"
    for what, state in (("requests", "waiting"), ("requests", "running"), ("answers", "waiting")):
        assert samples[f'dsv4_{what}{{state="{state}"}}'] == "0"
    assert samples["dsv4_generated_tokens_total"] == "3"
    assert float(samples["dsv4_cache_places"]) > 0
    prompt, cached = samples["dsv4_prompt_tokens_total"], samples["dsv4_cached_tokens_total"]
    assert float(samples["dsv4_read_tokens_total"]) == float(prompt) - float(cached)


# Counting


def test_a_rate_is_counted_for_each_and_comes_back_with_time() -> None:
    now = [0.0]
    rate = RateLimit(60, lambda: now[0], most_known=2)
    assert [rate.allows("a") for _ in range(61)] == [True] * 60 + [False]
    assert rate.allows("b")
    now[0] = 1.0
    assert [rate.allows("a") for _ in range(2)] == [True, False]
    assert rate.allows("c") and rate.allows("d")
    assert rate.left("b") == 60  # forgotten, with most of its minute gone


def test_a_record_tells_how_its_request_ended() -> None:
    ended: list[str] = []
    records = Records(lambda: 5.0, on_end=lambda record: ended.append(record.line()))
    records.begin("chat", "curl/8").end(Fault("too_long", "The prompt is too long."), False)
    assert ended == ["#1 chat curl/8, too_long, 0.0 s"]
    assert not records.open


def test_nothing_of_a_prompt_is_in_the_log() -> None:
    lines: list[str] = []
    served = Served(script("The answer."))
    served.app.records.on_end = lambda record: lines.append(record.line())
    body: Mapping[str, Any] = {"messages": [{"role": "user", "content": "A secret"}]}
    served.run(lambda client: client.post(CHAT, body, headers={"user-agent": "curl/8 \x1b[31m"}))
    (line,) = lines
    assert line.startswith("#1 chat curl/8, stop, prompt ")
    assert "secret" not in line and "answer" not in json.dumps(lines)
