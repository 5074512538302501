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
MESSAGES = "/v1/messages"
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


def test_another_first_message_is_no_other_beginning() -> None:
    def asked(text: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": text}], "reasoning_effort": "low"}

    async def work(client: Client) -> Answer:
        await client.post(CHAT, asked("Write a file."))
        return await client.post(LOOK, {"path": CHAT, "body": asked("Sing a song.")})

    assert Served(SCRIPT).run(work).json["partings"][0]["why"] == "another text"


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


def turns(*asked: str | dict[str, Any]) -> list[dict[str, Any]]:
    """Messages of a user and a model that follow one another; those of others as they are."""
    roles = iter(("user", "assistant") * len(asked))
    return [one if isinstance(one, dict) else dict(role=next(roles), content=one) for one in asked]


def claude(billed: str, *asked: str | dict[str, Any]) -> dict[str, Any]:
    """A body as Claude Code writes it."""
    texts = (f"x-anthropic-billing-header: cc_version=2.1; cch={billed};", "You work well.")
    system = [{"type": "text", "text": text} for text in texts]
    return {"max_tokens": 64, "system": system, "messages": turns(*asked)}


def looked_after(path: str, first: dict[str, Any], *others: dict[str, Any]) -> list[Any]:
    """What is found for each of `others` where `first` alone was answered."""

    async def work(client: Client) -> list[Any]:
        assert (await client.post(path, first)).status == 200
        return [(await client.post(LOOK, {"path": path, "body": body})).json for body in others]

    return Served(script("It is done.")).run(work)


SAYS = ("Write a file.", "It is done.", "And now?")


def test_a_billing_line_that_is_new_in_each_request_parts_nothing() -> None:
    first, others = claude("a1", SAYS[0]), (claude("a1", *SAYS), claude("b2", *SAYS))
    same, other = looked_after(MESSAGES, first, *others)
    assert other == same and other["partings"][0]["why"] == "the timeline ends here"
    assert not any("billing" in part["text"] for part in other["parts"])


def test_a_system_message_in_the_middle_parts_nothing_before_it() -> None:
    left = {"role": "system", "content": "9000 tokens left"}
    others = (claude("a1", *SAYS), claude("a1", *SAYS[:2], left, SAYS[2]))
    without, within = looked_after(MESSAGES, claude("a1", SAYS[0]), *others)
    one, other = without["partings"][0], within["partings"][0]
    assert other["why"] == "the timeline ends here"
    assert (other["matched"], within["kept"]) == (one["matched"], without["kept"])
    texts = "".join(part["text"] for part in within["parts"])
    assert texts.index(SAYS[1]) < texts.index(left["content"]) < texts.index(SAYS[2])


@pytest.mark.parametrize("rest", ["", " Then run it."])
def test_details_that_are_cut_from_an_earlier_turn_part_there_and_are_named(rest: str) -> None:
    details = "<environment_details>open: a.py</environment_details>"
    first = {"messages": turns(SAYS[0] + details + rest)}
    second = {"messages": turns(SAYS[0] + rest, SAYS[1], SAYS[2] + details)}
    (found,) = looked_after(CHAT, first, second)
    parting = found["partings"][0]
    assert parting["why"] == "text was left out"
    assert parting["timeline_text"].startswith("<environment")
    assert parting["prompt_text"].startswith(rest or "<｜Assistant｜>")
