"""Chat completions as the clients of today send them: later turns read only what is new."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.scripted.script import ScriptedReply
from tests.cli.serve.served_app import Answer, Client, Served, script
from tests.serving.clients import (
    Habit,
    Messages,
    as_sent,
    drops_reasoning,
    exact,
    reorders_results,
    serialises_anew,
    trims_reasoning,
    writes_null,
)

CHAT = "/v1/chat/completions"
SPARE_TOKENS = 16
READ = {"name": "read", "arguments": {"path": 'a "b".py', "lines": [1, 2.5], "deep": {"x": None}}}
LIST = {"name": "list", "arguments": {"path": "007"}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} something.",
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}},
                "required": ["path"],
            },
        },
    }
    for name in ("read", "list")
]
SCRIPT = script(
    ScriptedReply("<think>I look twice. </think>Let me look.\n", (READ, LIST)),
    ScriptedReply("<think> Once more.\n\n</think>", (READ,)),
    "<think>Enough.</think>  It says **so**.  \n",
    "<think>A new question.</think>Yes.",
    chunk=32,
)

# Without tools the release drops the reasoning of earlier turns, so that there is more to read.
TEXTS = script("Let me look.\n", "  It says **so**.  \n", "Yes.", "No.", chunk=32)


@dataclass(frozen=True)
class Agent:
    """How one client asks, and what it makes of the conversation before it sends it again."""

    fields: dict[str, Any]
    habits: Sequence[Habit] = (exact,)
    system_role: str = "system"
    tools: Sequence[Any] = tuple(TOOLS)

    def body(self, messages: Messages) -> dict[str, Any]:
        system = {"role": self.system_role, "content": "You are an agent.\nToday is Monday."}
        body = {"model": "scripted", "messages": [system, *as_sent(messages, *self.habits)]}
        return {**body, **({"tools": list(self.tools)} if self.tools else {}), **self.fields}


USAGE = {"stream": True, "stream_options": {"include_usage": True}}
AGENTS = {
    "opencode": Agent(
        {**USAGE, "max_tokens": 8000, "tool_choice": "auto", "temperature": 0.55},
        (serialises_anew,),
    ),
    "qwen": Agent(
        {**USAGE, "temperature": 0, "top_p": 0.95, "metadata": {"sessionId": "x"}},
        (serialises_anew, trims_reasoning),
    ),
    "cline": Agent({**USAGE, "temperature": 0}, (serialises_anew, writes_null)),
    "pi": Agent(
        {**USAGE, "max_completion_tokens": 4000, "store": False, "reasoning_effort": "medium"},
        (writes_null,),
        system_role="developer",
    ),
    "sdk": Agent({"parallel_tool_calls": True, "seed": 1}, (drops_reasoning, reorders_results)),
    "aider": Agent({"stream": True, "temperature": 0}, tools=()),
    "llm": Agent(USAGE, (drops_reasoning,), tools=()),
}


def said(answer: Answer) -> dict[str, Any]:
    """The message of an answer, as SDKs put it together from a stream."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return dict(answer.json["choices"][0]["message"])
    message: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": []}
    for chunk in answer.chunks:
        for choice in chunk["choices"]:
            _add(message, choice["delta"])
    return message


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for field in ("content", "reasoning_content"):
        if delta.get(field):
            message[field] = message.get(field, "") + delta[field]
    for piece in delta.get("tool_calls", ()):
        calls = message["tool_calls"]
        if piece["index"] == len(calls):
            calls.append({**piece, "function": dict(piece["function"])})
        else:
            assert "id" not in piece and "name" not in piece["function"]
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def results(message: dict[str, Any]) -> Messages:
    """What the client's tools give."""
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": f"result {number}\n"}
        for number, call in enumerate(message.get("tool_calls") or ())
    ]


def conversation(agent: Agent) -> Callable[[Client], Any]:
    async def work(client: Client) -> Messages:
        messages: Messages = [{"role": "user", "content": "What does it say? " * 20}]
        for _ in range(4):
            answer = await client.post(CHAT, agent.body(messages))
            assert answer.status == 200, answer.body
            message = said(answer)
            message.setdefault("tool_calls", [])
            new = results(message) or [{"role": "user", "content": "And now?"}]
            messages = [*messages, message, *new]
        return messages

    return work


@pytest.mark.parametrize("name", AGENTS)
def test_a_later_turn_reads_only_what_is_new(name: str) -> None:
    agent, records = AGENTS[name], []
    thinking = Thinking("thinking", "low") if agent.tools else Thinking("chat")
    served = Served(SCRIPT if agent.tools else TEXTS, thinking=thinking)
    served.app.records.on_end = records.append
    messages = served.run(conversation(agent))
    before = 0
    for record in records:
        assert record.prompt - record.cached <= record.prompt - before + SPARE_TOKENS, record
        before = record.prompt + record.generated
    assert len(records) == 4
    first = next(message for message in messages if message["role"] == "assistant")
    assert first["content"] == "Let me look.\n"
    calls = [json.loads(call["function"]["arguments"]) for call in first["tool_calls"]]
    assert calls == ([READ["arguments"], LIST["arguments"]] if agent.tools else [])
