"""Requests that nobody should send, a thousand of them, and the one after them."""

import asyncio
import json
import random
import resource
from typing import Any

import pytest

from cli.serve.limits import BodyReader, HttpLimits
from dsv4_mlx.scripted.script import ScriptedReply
from dsv4_mlx.serving.limits import ServingLimits
from tests.cli.serve.served_app import PATIENCE_S, Answer, Client, Served, script

REQUESTS = 1000
MOST_GROWTH = 64 << 20
"""Bytes by which the second half of the requests may let the process grow."""
MESSAGES = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/messages": {"model": "scripted", "max_tokens": 20, "messages": MESSAGES},
    "/v1/responses": {"model": "scripted", "input": "Hello"},
    "/v1/messages/count_tokens": {"model": "scripted", "messages": MESSAGES},
}
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, "", "x" * 5000, "\x00", "😀", [], [[]], {}, {"type": "text"},
    [None], [{"role": "user"}], [{"role": "tool", "content": [{"type": "image"}]}],
    [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}],
)  # fmt: skip
FIELDS = (
    "messages", "model", "stream", "temperature", "max_tokens", "stop", "n", "tools", "seed",
    "tool_choice", "response_format", "stream_options", "prompt", "input", "system", "thinking",
    "reasoning", "text", "metadata", "previous_response_id", "instructions", "top_p", "logprobs",
)  # fmt: skip


def broken(draw: random.Random, content: bytes) -> bytes:
    """A body that is damaged in one way."""
    kind = draw.randrange(7)
    if kind == 0:
        return content[: draw.randrange(len(content))]
    if kind == 1:
        place = draw.randrange(len(content))
        return content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :]
    if kind == 2:
        return b'{"messages":' + b"[" * draw.randrange(50, 20_000)
    if kind == 3:
        return content[:-1] + rb', "user": "\ud83d", "x": "\udc00\ud800"}'
    if kind == 4:
        return content[:-1] + b', "user": "\xff\xc3\x28"}'
    if kind == 5:
        return content[:-1] + b', "x": "' + b"a" * 300_000 + b'"}'
    return content


def hostile_body(draw: random.Random, body: dict[str, Any]) -> bytes:
    changed = dict(body)
    for _ in range(draw.randrange(4)):
        changed[draw.choice(FIELDS)] = draw.choice(VALUES)
    return broken(draw, json.dumps(changed).encode())


def is_an_error_of(path: str, answer: Answer) -> bool:
    """Whether an answer is an error that a client at `path` understands."""
    body = answer.json
    error = body.get("error")
    if path.startswith("/v1/messages"):
        return body["type"] == "error" and {"type", "message"} <= set(error)
    return {"message", "type"} <= set(error)


async def hostile(client: Client, draw: random.Random) -> None:
    """One request; whatever comes back is an answer, an error of the dialect, or nothing for a
    client that left."""
    path = draw.choice(list(BODIES))
    content = hostile_body(draw, BODIES[path])
    headers = {"content-type": draw.choice(["application/json", "text/plain", "\u00e4"])}
    if draw.random() < 0.1:
        headers["content-length"] = draw.choice(["99999999999", "-1", "many", "5"])
    if draw.random() < 0.05:
        headers["host"] = draw.choice(["evil.example", "", "localhost:x", "[::1"])
    if draw.random() < 0.05:
        headers["origin"] = "https://evil.example"
    cut = draw.randrange(len(content) + 1)
    pieces: list[bytes | None] = [content[:cut], content[cut:]]
    if draw.random() < 0.05:
        pieces[1] = None
    leaves_after = draw.choice([None, None, 0, 200])
    answer = await client.ask(
        "POST",
        path,
        pieces,
        headers=headers,
        leaves_at=lambda one: leaves_after is not None and len(one.body) >= leaves_after,
    )
    if answer.is_whole and answer.status != 200:
        assert 400 <= answer.status < 600 and answer.status != 500, (path, content, answer)
        assert is_an_error_of(path, answer), (path, content, answer)


def grown() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.slow
def test_a_thousand_hostile_requests_leave_the_server_as_it_was() -> None:
    limits = HttpLimits(
        body_bytes=200_000, body_s=0.2, first_event_s=PATIENCE_S, requests_per_minute=1 << 20
    )
    serving = ServingLimits(most_waiting=64, longest_reply=64)
    served = Served(script(ScriptedReply("Hi.", repeat=4)), limits=limits, serving=serving)
    draw = random.Random(7)

    async def many(client: Client, count: int) -> None:
        for _ in range(count // 10):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(10):
                    tasks.create_task(hostile(client, draw))

    async def work(client: Client) -> tuple[int, int, Answer, Any]:
        await many(client, REQUESTS // 2)
        middle = grown()
        await many(client, REQUESTS // 2)
        last = await client.post("/v1/chat/completions", BODIES["/v1/chat/completions"])
        load = served.model.running.scheduler.call(lambda: None)
        await asyncio.wrap_future(load)
        return middle, grown(), last, served.model.running.scheduler.load

    middle, end, last, load = served.run(work)
    assert last.status == 200
    assert last.json["choices"][0]["message"]["content"] == "Hi." * 4
    assert (load.waiting, load.reading, load.answering) == (0, 0, 0)
    assert not served.app.records.open
    assert end - middle < MOST_GROWTH


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(400, marks=pytest.mark.slow),
        pytest.param(2000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_many_clients_at_once_each_get_their_answer(rounds: int) -> None:
    """24 of them, some of whom leave, over and over: about two minutes of a core, and the soak
    ten."""
    replies = [ScriptedReply("word ", repeat=20), ScriptedReply("<think>So.</think>Yes.")]
    limits = HttpLimits(first_event_s=PATIENCE_S, requests_per_minute=1 << 20)
    served = Served(script(*replies), limits=limits)

    async def one(client: Client, draw: random.Random) -> int:
        whole = 0
        for _ in range(rounds // 2):
            path = draw.choice(list(BODIES)[:4])
            body = {**BODIES[path], "stream": draw.random() < 0.7}
            leaves = draw.random() < 0.3
            answer = await client.post(
                path, body, leaves_at=lambda one, leaves=leaves: leaves and len(one.body) > 100
            )
            assert answer.status == 200, (path, answer)
            whole += answer.is_whole
        return whole

    async def work(client: Client) -> tuple[list[int], int]:
        draws = [random.Random(number) for number in range(24)]
        first = await asyncio.gather(*(one(client, draw) for draw in draws))
        middle = grown()
        second = await asyncio.gather(*(one(client, draw) for draw in draws))
        return [*first, *second], grown() - middle

    answered, growth = served.run(work)
    assert all(answered) and growth < MOST_GROWTH
    assert not served.app.records.open


def test_only_a_few_large_bodies_are_read_at_once() -> None:
    reader = BodyReader(HttpLimits(large_bytes=10, large_bodies=1))
    may_go_on, pieces = asyncio.Event(), [b'{"a": ' + b" " * 20, b"1}"]

    async def read(waits: bool, taken: list[bytes]) -> Any:
        async def receive() -> dict[str, Any]:
            if waits and taken:
                await may_go_on.wait()
            taken.append(pieces[len(taken)])
            return {"type": "http.request", "body": taken[-1], "more_body": len(taken) < 2}

        return await reader.read({"headers": []}, receive)

    async def work() -> None:
        first, second = list[bytes](), list[bytes]()
        reads = [asyncio.ensure_future(read(*one)) for one in ((True, first), (False, second))]
        for _ in range(20):
            await asyncio.sleep(0)
        assert (len(first), len(second)) == (1, 1)
        may_go_on.set()
        assert await asyncio.gather(*reads) == [{"a": 1}, {"a": 1}]

    asyncio.run(work())
