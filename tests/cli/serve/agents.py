"""What coding agents send, turn after turn, as recorded of them: shapes, not texts.

An agent makes the body of its next request of the answer to the last one, with the habits that
break caches elsewhere.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dsv4_mlx.scripted.script import Script, ScriptedReply
from tests.cli.serve.driven import Answered

Body = dict[str, Any]
_PATHS = {"type": "object", "properties": {"command": {"type": "string"}}}
LISTING = {"name": "shell", "arguments": {"command": 'ls "a b"', "lines": [1, 2.5]}}
READING = {"name": "shell", "arguments": {"command": "cat 007"}}
PATCH = '*** Begin Patch\n+say("hi\\n")\n*** End Patch'
LONG = "Work carefully, and say what you did. " * 40


def agent_script(patch: Mapping[str, Any]) -> Script:
    """Three rounds of tools with `patch` as the second, then an answer, then two more questions."""
    replies = (
        ScriptedReply("<think>I look twice. </think>Let me look.\n", (LISTING, READING)),
        ScriptedReply("<think> Once more.\n\n</think>", (patch,)),
        ScriptedReply("", (READING,)),
        ScriptedReply("<think>Enough.</think>  It says **so**.  \n"),
        ScriptedReply("<think>A new question.</think>Yes."),
        ScriptedReply("<think>Another.</think>Yes."),
    )
    return Script(tuple((one,) for one in replies), chunk=32)


class ClaudeCode:
    """Anthropic's messages: a new billing line each time, a mark of what to cache that moves,
    results in the order in which they came, and system messages in the middle."""

    def __init__(self) -> None:
        self.turn = 0
        first = "<system-reminder>\nToday is a day.\n</system-reminder>"
        self.messages: list[Body] = [
            {"role": "user", "content": [_text(first), _text("What is in a?")]},
            {"role": "system", "content": "<total_tokens>200000 tokens left</total_tokens>"},
        ]

    def title(self) -> Body:
        """The request for a title, which stands beside the conversation."""
        schema = {"type": "object", "properties": {"title": {"type": "string"}}}
        return {
            "model": "nano",
            "max_tokens": 32000,
            "system": [_text(self._billing()), _text("Write a title.")],
            "messages": [{"role": "user", "content": [_text("What is in a?")]}],
            "tools": [],
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
            "stream": True,
        }

    def body(self) -> Body:
        """The next request."""
        messages = json.loads(json.dumps(self.messages))
        spoken = [one for one in messages if isinstance(one["content"], list)]
        spoken[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
        marked = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
        return {
            "model": "nano",
            "max_tokens": 32000,
            "system": [
                _text(self._billing()),
                {**_text("You are an agent."), **marked},
                {**_text(LONG), **marked},
            ],
            "messages": messages,
            "tools": [
                {"name": "shell", "description": "Runs a command.", "input_schema": _PATHS},
                {"name": "patch", "description": "Patches.", "input_schema": _PATHS},
                {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
            ],
            "metadata": {"user_id": f"user_{self.turn}"},
            "thinking": {"type": "adaptive"},
            "output_config": {"effort": "high"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "stream": True,
        }

    def hears(self, answered: Answered) -> None:
        """Append the answer and what follows it."""
        self.turn += 1
        blocks = streamed_blocks(answered.events)
        self.messages.append({"role": "assistant", "content": blocks})
        calls = [block for block in blocks if block["type"] == "tool_use"]
        results = [
            {
                "type": "tool_result",
                "tool_use_id": call["id"],
                "content": f"{call['name']} says {self.turn}",
                "is_error": False,
            }
            for call in reversed(calls)
        ]
        self.messages.append({"role": "user", "content": results or [_text("And then?")]})
        left = f"<total_tokens>{200000 - 1000 * self.turn} tokens left</total_tokens>"
        self.messages.append({"role": "system", "content": left})

    def _billing(self) -> str:
        return f"x-anthropic-billing-header: cc_version=2.1.197.{self.turn}; cch={self.turn:05x};"


def _text(text: str) -> Body:
    return {"type": "text", "text": text}


def streamed_blocks(events: Sequence[Mapping[str, Any]]) -> list[Body]:
    """The blocks of a message that a program makes of the events of a stream."""
    blocks: list[Body] = []
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(blocks)
                blocks.append({**event["content_block"], "written": ""})
            case "content_block_delta":
                assert event["index"] == len(blocks) - 1
                _grow(blocks[-1], event["delta"])
    for block in blocks:
        written = block.pop("written")
        if block["type"] == "tool_use":
            block["input"] = json.loads(written or "{}")
    return blocks


def _grow(block: Body, delta: Mapping[str, Any]) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] += delta["signature"]
        case "input_json_delta":
            block["written"] += delta["partial_json"]


class Codex:
    """OpenAI's responses without a memory: all items each time, ids and metadata that are new,
    reasoning as it was sealed alone, and results that begin with something random."""

    def __init__(self) -> None:
        self.turn = 0
        self.items: list[Body] = [
            _said("developer", "input_text", LONG),
            _said("user", "input_text", "<environment>here</environment>"),
            _said("user", "input_text", "What is in a?"),
        ]

    def body(self) -> Body:
        """The next request."""
        grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'}
        function = {"type": "function", "strict": False, "parameters": _PATHS}
        return {
            "model": "nano",
            "instructions": "You are an agent.",
            "input": json.loads(json.dumps(self.items)),
            "tools": [
                {**function, "name": "shell", "description": "Runs a command."},
                {"type": "custom", "name": "patch", "description": "Patches.", "format": grammar},
                {"type": "web_search", "external_web_access": False},
                {
                    "type": "namespace",
                    "name": "mcp__notes",
                    "description": "Notes.",
                    "tools": [{**function, "name": "find", "description": "Finds."}],
                },
            ],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"effort": "medium", "summary": "auto"},
            "store": False,
            "stream": True,
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": f"key-{self.turn}",
            "client_metadata": {"turn": f"{self.turn}"},
        }

    def hears(self, answered: Answered) -> None:
        """Append the answer, made of what `output_item.done` says alone, and what follows it."""
        self.turn += 1
        done = [event["item"] for event in answered.of("response.output_item.done")]
        calls = [item for item in done if item["type"].endswith("_call")]
        self.items += [_returned(item, self.turn) for item in done]
        for number, call in enumerate(calls):
            self.items.append(
                {
                    "type": f"{call['type']}_output",
                    "call_id": call["call_id"],
                    "output": f"Chunk ID: {self.turn}{number}f3\n{call['name']} says so\n",
                }
            )
        if not calls:
            self.items.append(_said("user", "input_text", "And then?"))


def _said(role: str, kind: str, text: str) -> Body:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def _returned(item: Mapping[str, Any], turn: int) -> Body:
    """An item as it comes back: another id, no state, and a content of null in reasoning."""
    returned = {key: value for key, value in item.items() if key != "status"}
    if item["type"] == "reasoning":
        returned |= {"content": None, "id": f"rs_new_{turn}"}
    return returned
