"""The page that shows a prompt and where it parts from what was read before."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from cli.serve.access import Access, ApiKeys
from dsv4_mlx.scripted.script import ScriptedReply
from tests.cli.serve.served_app import Answer, Client, Served, script

CHAT = "/v1/chat/completions"
LOOK = "/v1/debug/prompt"
CALL = {"name": "write", "arguments": {"path": "a.py", "options": {"mode": 420, "new": True}}}
SCRIPT = script(ScriptedReply("<think>First I look.</think>Let me see.", (CALL,)), "Done.")
BODY: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "You work well. Session 1234."},
        {"role": "user", "content": "Write a file."},
    ],
    "tools": [{"type": "function", "function": {"name": "write", "parameters": {}}}],
    "reasoning_effort": "low",
}


def looked(change: Callable[[dict[str, Any]], None]) -> Answer:
    """What is found for the second request of a conversation after `change`."""

    async def work(client: Client) -> Answer:
        first = await client.post(CHAT, BODY)
        body = deepcopy(BODY)
        body["messages"] += [
            first.json["choices"][0]["message"],
            {"role": "tool", "tool_call_id": "call_0", "content": "written"},
        ]
        # The server knows its replies by their calls, so what changes one is another reply to it.
        change(body)
        return await client.post(LOOK, {"path": CHAT, "body": body})

    return Served(SCRIPT).run(work)


def test_a_conversation_that_goes_on_parts_where_what_was_read_ends() -> None:
    found = looked(lambda body: None).json
    assert found["kept"] >= found["partings"][0]["matched"] - 1 > 0
    assert found["partings"][0]["why"] == "the timeline ends here"
    parts = found["parts"]
    assert parts[0]["start"] == 0 and parts[-1]["end"] == found["tokens"]
    assert any("Write a file." in part["text"] for part in parts)


def system(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["messages"][0].update(content=text)


def user(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["messages"][1].update(content=text)


def reply(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(body: dict[str, Any]) -> None:
        body["messages"][2].update(changes)

    return change


def level(body: dict[str, Any]) -> None:
    body["reasoning_effort"] = "none"


CHANGES = {
    "number": (
        system("You work well. Session 5678."),
        "a number, a date or an id changed in the beginning",
    ),
    "beginning": (system("You are quick."), "the beginning is another: system message or tools"),
    "space": (user("Write  a file."), "white space differs"),
    "added": (user("Write a file. Now."), "text was added"),
    "cut": (user("Write"), "text was left out"),
    "another": (user("Delete it all."), "another text"),
    "reasoning": (reply(reasoning_content="I look first."), "the reasoning is another"),
    "level": (level, "the thinking level is another"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_client_did_is_told(name: str) -> None:
    change, why = CHANGES[name]
    answer = looked(change)
    assert answer.json["partings"][0]["why"] == why, answer.json["partings"]


def test_prompts_are_shown_at_this_machine_alone() -> None:
    async def work(client: Client) -> list[Answer]:
        asked = {"path": CHAT, "body": BODY}
        key = {"x-api-key": "k" * 9}
        return [
            await client.post(LOOK, asked, client="192.168.1.7", headers=key),
            await client.post(LOOK, asked, headers={**key, "x-forwarded-for": "192.168.1.7"}),
            await client.post(LOOK, asked, headers={**key, "host": "llm.example"}),
            await client.post(LOOK, asked),
            await client.get("/debug"),
        ]

    access = Access(ApiKeys(["k" * 9]), "0.0.0.0", allowed_hosts=["llm.example"])
    elsewhere, proxied, named, keyless, page = Served(SCRIPT, options={"access": access}).run(work)
    assert {one.status for one in (elsewhere, proxied, named)} == {403}
    assert (keyless.status, page.status) == (401, 200)
    assert b"<!doctype html>" in page.body and CHAT.encode() in page.body


@pytest.mark.parametrize(
    "body", [{}, {"path": "/x", "body": {}}, {"path": [], "body": {}}, {"path": CHAT, "body": 1}]
)
def test_a_body_without_a_path_is_refused(body: dict[str, Any]) -> None:
    answer = Served(SCRIPT).run(lambda client: client.post(LOOK, body))
    assert answer.status == 400


def spelled_anew(body: dict[str, Any]) -> None:
    called = body["messages"][2]["tool_calls"][0]["function"]
    called["arguments"] = json.dumps(json.loads(called["arguments"]), indent=2)


HANDLED: dict[str, Callable[[dict[str, Any]], None]] = {
    "reasoning left out": lambda body: body["messages"][2].pop("reasoning_content"),
    "reasoning with other ends": reply(reasoning_content=" First I look.\n"),
    "arguments serialised anew": spelled_anew,
    "a line end more": reply(content="Let me see.\n"),
    "a mark of what to cache": lambda body: body["tools"][0].update(
        cache_control={"type": "ephemeral"}
    ),
    "names and ids": lambda body: body.update(user="u2", metadata={"turn": "2"}, id="x"),
}


@pytest.mark.parametrize("name", HANDLED)
def test_what_clients_change_every_turn_parts_nothing(name: str) -> None:
    assert looked(HANDLED[name]).json == looked(lambda body: None).json
