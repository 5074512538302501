"""Whatever agents do to a conversation, a later turn reads only what is new."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cli.serve.messages import MessagesDialect
from cli.serve.responses import ResponsesDialect
from cli.serve.responses_kept import KeptResponses
from cli.serve.sealing import Seals
from dsv4_mlx.chat.events import Done
from tests.cli.serve.agents import PATCH, ClaudeCode, Codex, agent_script
from tests.cli.serve.driven import Server

SPARE = 16
"""Tokens that a turn may read again."""
TURNS = 6


def messages(folder: Path | None = None) -> Server:
    seals = Seals.for_now() if folder is None else Seals.kept_in(folder)
    patch = {"name": "patch", "arguments": {"command": PATCH}}
    return Server(MessagesDialect(seals), agent_script(patch), folder)


def responses(folder: Path | None = None) -> Server:
    seals = Seals.for_now() if folder is None else Seals.kept_in(folder)
    patch = {"name": "patch", "arguments": {"input": PATCH}}
    return Server(ResponsesDialect(seals, KeptResponses()), agent_script(patch), folder)


def turns(make: Any, agent: Any, folder: Path | None = None) -> list[Done]:
    """The ends of an agent's turns. With a `folder` the program begins anew before each."""
    ends, server = [], make(folder)
    for _ in range(TURNS):
        server = server if folder is None else make(folder)
        answered = server.ask(agent.body())
        agent.hears(answered)
        assert answered.done is not None
        ends.append(answered.done)
    assert [end.finish_reason for end in ends] == ["tool_calls"] * 3 + ["stop"] * 3
    return ends


def assert_reads_what_is_new(ends: list[Done]) -> None:
    for before, after in pairwise(ends):
        held = before.usage.prompt_tokens + before.usage.completion_tokens
        assert after.usage.cached_tokens >= held - SPARE


@pytest.mark.parametrize(("make", "agent"), [(messages, ClaudeCode), (responses, Codex)])
def test_each_turn_reads_what_is_new(make: Any, agent: Any) -> None:
    assert_reads_what_is_new(turns(make, agent()))


@pytest.mark.parametrize(("make", "agent"), [(messages, ClaudeCode), (responses, Codex)])
def test_a_program_that_begins_anew_reads_what_is_new(
    make: Any, agent: Any, tmp_path: Path
) -> None:
    assert_reads_what_is_new(turns(make, agent(), tmp_path))


def test_a_title_in_between_costs_the_conversation_nothing() -> None:
    server, agent = messages(), ClaudeCode()
    first = server.ask(agent.body())
    agent.hears(first)
    server.ask(agent.title())
    assert_reads_what_is_new([first.done, server.ask(agent.body()).done])


def test_another_session_of_an_agent_finds_its_tools_and_system_message_read() -> None:
    server, first, second = messages(), ClaudeCode(), ClaudeCode()
    second.turn = 7
    second.messages[0]["content"][1]["text"] = "Something else."
    read = server.ask(first.body()).done
    found = server.ask(second.body()).done
    assert read is not None and found is not None
    assert found.usage.prompt_tokens - found.usage.cached_tokens < 80


def test_reasoning_that_codex_brings_back_sealed_is_in_the_prompt() -> None:
    server, agent = responses(), Codex()
    agent.hears(server.ask(agent.body()))
    body = agent.body()
    for item in body["input"]:
        if item["type"] == "reasoning":
            item["summary"] = []
    stranger = Server(ResponsesDialect(server.dialect._seals, KeptResponses()), server.script)
    assert "I look twice. " in stranger.prompt(body)
