"""Whatever stands in a body, it is a request or a sentence says what is wrong with it."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.serve.chat_completions import ChatCompletions
from cli.serve.completions import CompletionsDialect
from cli.serve.messages import MessagesDialect
from cli.serve.responses import ResponsesDialect
from cli.serve.responses_kept import KeptResponses
from cli.serve.sealing import Seals
from dsv4_mlx.errors import Dsv4Error
from tests.cli.serve.agents import ClaudeCode, Codex
from tests.cli.serve.driven import Server, context, script
from tests.examples import examples

SEALS = Seals.for_now()
SOMETHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["type", "text", "role", "name", "id"]), inner)
    ),
    max_leaves=4,
)


def claude() -> dict[str, Any]:
    agent = ClaudeCode()
    call = {"type": "tool_use", "id": "a", "name": "shell", "input": {"command": "ls"}}
    thought = {"type": "thinking", "thinking": "Hm", "signature": SEALS.seal("somebody", "Hm")}
    given = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}]}
    agent.messages += [
        {"role": "assistant", "content": [thought, {"type": "text", "text": "So"}, call]},
        {"role": "user", "content": [given]},
    ]
    return {**agent.body(), "tool_choice": {"type": "auto"}, "stop_sequences": ["END"]}


def codex() -> dict[str, Any]:
    agent = Codex()
    agent.items += [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "function_call", "call_id": "a", "name": "shell", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "x"},
        {"type": "custom_tool_call", "call_id": "b", "name": "patch", "input": "x"},
    ]
    choice = {"type": "allowed_tools", "tools": [{"type": "function", "name": "shell"}]}
    form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    told = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    return {**agent.body(), "tool_choice": choice, "text": form, **told}


def chat() -> dict[str, Any]:
    call = {"name": "shell", "arguments": "{}"}
    return {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "shell", "content": "x"},
        ],
        "functions": [{"name": "shell", "parameters": {"type": "object"}}],
        "function_call": {"name": "shell"},
        "logit_bias": {"5": 1},
        "presence_penalty": 1,
        "logprobs": True,
        "top_logprobs": 2,
    }


def completion() -> dict[str, Any]:
    return {"prompt": ["x"], "logprobs": 2, "logit_bias": {"5": 1}, "frequency_penalty": 1}


BODIES = {
    "messages": claude(), "responses": codex(), "chat": chat(), "completions": completion(),
}  # fmt: skip
DIALECTS: dict[str, Any] = {
    "chat": ChatCompletions(),
    "completions": CompletionsDialect(),
    "messages": MessagesDialect(SEALS),
    "responses": ResponsesDialect(SEALS, KeptResponses()),
}


@cache
def server(name: str) -> Server:
    return Server(DIALECTS[name], script("Yes."))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything in a body but itself."""
    if not isinstance(value, dict | list):
        return
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        yield from places(one, (*path, key))


@pytest.mark.parametrize("name", BODIES)
@examples(30, slow=100)
@given(data=st.data())
def test_anything_in_any_place_is_read_or_refused_with_a_sentence(name: str, data: Any) -> None:
    body = json.loads(json.dumps(BODIES[name]))
    way = data.draw(st.sampled_from(list(places(body))))
    inner = body
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = data.draw(SOMETHING)
    try:
        asked = DIALECTS[name].read(body, context())
        server(name).service.prompts.write(asked.request)
    except Dsv4Error as error:
        assert str(error).endswith(".")
