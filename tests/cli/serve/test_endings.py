"""Answers that the server ends, a model that is let go of at the wrong moment, and what is told."""

import asyncio
import io
import json
from typing import Any

import pytest

from cli.serve.dialect import Frame
from dsv4_mlx.scripted.script import ScriptedReply
from tests.cli.serve.served_app import PATIENCE_S, Answer, Client, Served, script

CHAT = "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/messages": {"max_tokens": 9000, "messages": [{"role": "user", "content": "Hello"}]},
    "/v1/responses": {"input": "Hello"},
}
LONG = ScriptedReply("One word after the other. ", repeat=4000, delay_ms=1)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_an_answer_that_the_server_ends_is_no_whole_one(path: str, streams: bool) -> None:
    served = Served(script(LONG))

    async def work(client: Client) -> Answer:
        asked = asyncio.ensure_future(client.post(path, {**BODIES[path], "stream": streams}))
        while not served.app.records.open or not served.model.is_ready:
            await asyncio.sleep(0)
        while not served.model.running.scheduler.load.answering:
            await asyncio.sleep(0)
        served.model.stop("the test ends it")
        return await asked

    answer = served.run(work)
    if streams:
        last = answer.chunks[-1]
        assert "error" in last or last["response"]["status"] == "failed"
        assert b'"finish_reason":"' not in answer.body
    else:
        assert answer.status in (503, 529) and "ask again" in answer.json["error"]["message"]
    ends = list(served.app.records.totals.requests)
    assert [end for _, end in ends] == ["unavailable"]


def test_a_request_may_come_while_the_model_is_let_go_of() -> None:
    served = Served(script("Hi."))

    async def work(client: Client) -> list[Answer]:
        first = await client.post(CHAT, BODIES[CHAT])
        free = served.model.let_go()
        second = asyncio.ensure_future(client.post(CHAT, BODIES[CHAT]))
        while served.model.state == "idle":
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.to_thread(free), PATIENCE_S)
        return [first, await second]

    assert [answer.status for answer in served.run(work)] == [200, 200]


def test_a_mistake_of_ours_tells_the_log_where_and_nothing_of_a_prompt() -> None:
    served = Served(script("Hi."))
    served.app.errors = log = io.StringIO()

    def mistaken(body: Any, context: Any) -> Any:
        said = body["messages"][0]["content"]
        raise KeyError(said) from ValueError(said)

    served.app.dialects.answers[CHAT].read = mistaken  # type: ignore[method-assign]
    answer = served.run(lambda client: client.post(CHAT, BODIES[CHAT]))
    assert answer.status == 500 and "its log says how" in answer.json["error"]["message"]
    text = log.getvalue()
    assert "in mistaken" in text and "ValueError" in text and "KeyError" in text
    assert "Hello" not in text and "Hello" not in answer.body.decode()


def test_a_frame_is_one_line_for_whatever_splits_lines() -> None:
    text = "a\x85b\u2028c\u2029d\x0b\x1c"
    sent = Frame(json.dumps({"text": text}, ensure_ascii=False)).encode().decode()
    lines = sent.splitlines()
    assert len(lines) == 2 and json.loads(lines[0].removeprefix("data: ")) == {"text": text}


def test_a_field_of_a_wrong_type_is_the_clients_mistake() -> None:
    body = {**BODIES[CHAT], "modalities": 5}
    answer = Served(script("Hi.")).run(lambda client: client.post(CHAT, body))
    assert answer.status == 400 and "modalities" in answer.json["error"]["message"]
