"""Anthropic's messages and OpenAI's responses, asked over HTTP's own ways."""

from pathlib import Path
from typing import Any

import pytest

from cli.serve.access import Access, ApiKeys
from cli.serve.app import random_id
from cli.serve.limits import HttpLimits
from dsv4_mlx.serving.limits import ServingLimits
from tests.cli.serve.served_app import Answer, Client, Served, script

HI = {"max_tokens": 99, "messages": [{"role": "user", "content": "Hi"}]}


def served(*replies: Any, **options: Any) -> Served:
    return Served(script(*(replies or ("Yes.", "No."))), **options)


def test_claude_code_finds_its_door_and_its_dialect() -> None:
    async def asks(client: Client) -> list[Answer]:
        return [
            await client.ask("HEAD", "/"),
            await client.post("/v1/messages", {**HI, "stream": True}),
            await client.post("/v1/messages/count_tokens", HI),
        ]

    door, streamed, counted = served().run(asks)
    assert door.status == 200
    kinds = [frame.partition("\n")[0] for frame in streamed.frames]
    assert kinds[0] == "event: message_start" and kinds[-1] == "event: message_stop"
    usage = streamed.chunks[0]["message"]["usage"]
    assert counted.json == {"input_tokens": usage["input_tokens"]}


@pytest.mark.parametrize(
    ("path", "shape"),
    [("/v1/messages", {"type": "error"}), ("/v1/responses", {})],
)
def test_what_is_refused_before_an_answer_has_a_status_and_the_form_of_its_dialect(
    path: str, shape: dict[str, Any]
) -> None:
    async def asks(client: Client) -> list[Answer]:
        long = "one more word " * 3000
        bodies = [
            {"model": "gpt", **HI, "input": "Hi"},
            {**HI, "input": [7], "messages": [7]},
            {"messages": [{"role": "user", "content": long}], "input": long, "stream": True},
        ]
        return [await client.post(path, body) for body in bodies]

    script_ = script("Yes.", context=2048)
    answers = Served(script_).run(asks)
    assert [answer.status for answer in answers] == [404, 400, 400]
    for answer in answers:
        assert answer.json["error"]["message"].endswith(".")
        assert shape.items() <= answer.json.items()
    told = answers[2].json["error"]
    is_too_long = told["message"].startswith("prompt is too long")
    assert is_too_long or told["code"] == "context_length_exceeded"


@pytest.mark.parametrize("streams", [False, True])
def test_a_prompt_that_memory_never_holds_is_too_long_in_every_dialect(streams: bool) -> None:
    """Clients make room then; where they were told to come again later they would, for ever."""
    limits = ServingLimits(memory_bytes=1000, bytes_of=lambda tokens: 10 * tokens)
    long = "one more word " * 40
    messages = {"messages": [{"role": "user", "content": long}]}
    bodies: dict[str, Any] = {
        "chat/completions": messages,
        "completions": {"prompt": long},
        "responses": {"input": long},
        "messages": messages,
    }

    async def asks(client: Client) -> list[Answer]:
        return [
            await client.post(f"/v1/{path}", {**body, "stream": streams})
            for path, body in bodies.items()
        ]

    *openai, anthropic = served(serving=limits).run(asks)
    for answer in (*openai, anthropic):
        assert answer.status == 400 and "retry-after" not in answer.headers
        assert "timelines have 0.0 GB together" in answer.json["error"]["message"]
    assert {one.json["error"]["code"] for one in openai} == {"context_length_exceeded"}
    assert anthropic.json["error"]["message"].startswith("prompt is too long: ")


def test_a_response_is_looked_at_and_forgotten_by_its_owner_alone(tmp_path: Path) -> None:
    async def asks(client: Client) -> list[Answer]:
        def by(key: str) -> dict[str, Any]:
            return {"headers": {"authorization": f"Bearer {key}"}}

        made = await client.post("/v1/responses", {"input": "Hi"}, **by("mine"))
        path = f"/v1/responses/{made.json['id']}"
        return [
            made,
            await client.get(path, **by("mine")),
            await client.get(path, **by("yours")),
            await client.ask("DELETE", path, **by("yours")),
            await client.ask("DELETE", path, **by("mine")),
            await client.get(path, **by("mine")),
        ]

    access = Access(ApiKeys(("mine", "yours")))
    server = served(options={"access": access, "folder": tmp_path})
    made, looked_at, not_theirs, not_forgotten, forgotten, gone = server.run(asks)
    assert looked_at.json == made.json
    assert forgotten.json["deleted"] is True
    assert [one.status for one in (not_theirs, not_forgotten, gone)] == [404] * 3


def test_a_conversation_goes_on_in_a_program_that_begins_anew(tmp_path: Path) -> None:
    options = {"folder": tmp_path, "new_id": random_id}
    first = served(options=options).run(
        lambda client: client.post("/v1/responses", {"input": "Hi"})
    )
    body = {"input": "And?", "previous_response_id": first.json["id"]}
    second = served(options=options).run(lambda client: client.post("/v1/responses", body))
    assert second.json["output"][0]["content"][0]["text"] == "No."


def test_who_waits_hears_of_it_in_each_dialect() -> None:
    limits = HttpLimits(first_event_s=0.001, heartbeat_s=0.001)
    slow = "<think>" + "Hm. " * 40 + "</think>Yes."

    async def asks(client: Client) -> list[Answer]:
        return [
            await client.post("/v1/messages", {**HI, "stream": True}),
            await client.post("/v1/responses", {"input": "Hi", "stream": True}),
        ]

    messages, responses = Served(script(slow, prefill_ms=200), limits=limits).run(asks)
    pings = [chunk for chunk in messages.chunks if chunk["type"] == "ping"]
    assert any("progress" in ping for ping in pings)
    repeated = [chunk for chunk in responses.chunks if chunk["type"] == "response.in_progress"]
    assert len(repeated) > 1 and "progress" in repeated[1]
    numbers = [chunk["sequence_number"] for chunk in responses.chunks]
    assert numbers == list(range(len(numbers)))


def test_what_is_passed_over_stands_in_the_log() -> None:
    server = served()
    lines: list[str] = []
    server.app.records.on_end = lambda record: lines.append(record.line())
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    server.run(lambda client: client.post("/v1/messages", {**HI, "tools": tools}))
    assert "without web_search" in lines[0]


def test_what_an_answer_is_not_held_to_stands_in_the_log() -> None:
    server = served()
    lines: list[str] = []
    server.app.records.on_end = lambda record: lines.append(record.line())
    numbers = {"type": "array", "items": {"multipleOf": 3}, "uniqueItems": True}
    schema = {"type": "object", "properties": {"n": numbers}}
    parameters = {"type": "object", "minProperties": 1}
    tool = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    format_ = {"type": "json_schema", "json_schema": {"schema": schema}}
    bodies = [
        {**HI, "response_format": format_},
        {**HI, "tools": [tool], "tool_choice": "required"},
        {**HI, "tools": [tool]},
    ]

    async def asks(client: Client) -> None:
        for body in bodies:
            await client.post("/v1/chat/completions", body)

    server.run(asks)
    assert ["uniqueItems" in line for line in lines] == [True, False, False]
    assert not any("multipleOf" in line for line in lines)  # which the engine of grammars holds
    assert ["minProperties" in line for line in lines] == [False, True, False]
