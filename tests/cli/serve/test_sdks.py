"""The SDKs of Anthropic and OpenAI, driving the program over loopback: they raise for a stream that
breaks the grammar, and what they make of it is what their programs see."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.needs("sdks")]

SCRIPT = """
{"replies": [
  {"text": "<think>I look. </think>Let me look.",
   "tool_calls": [{"name": "look", "arguments": {"at": "a b"}}]},
  "<think>Hm</think>It says so.",
  "<think>A third.</think>Third."],
 "chunk": 32}
"""
AT = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
THINKS: Any = {"type": "adaptive"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server on the script listens."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "script.json").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "cli", "serve", "--port", "0"]
    program = subprocess.Popen(
        [*command, "--engine", f"fake:{folder / 'script.json'}", "--alias", "claude-here"],
        stderr=subprocess.PIPE,
        text=True,
        env={"DSV4_HOME": str(folder), "PATH": ""},
        cwd=Path(__file__).parents[3],
    )
    assert program.stderr is not None
    try:
        found = next(filter(None, (re.search(r"http://\S+", line) for line in program.stderr)))
        yield found[0]
    finally:
        program.terminate()
        program.communicate(timeout=60)


@pytest.fixture
def anthropic(address: str) -> Any:
    sdk = pytest.importorskip("anthropic")
    return sdk.Anthropic(base_url=address, api_key="none", max_retries=0)


@pytest.fixture
def openai(address: str) -> Any:
    sdk = pytest.importorskip("openai")
    return sdk.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def test_anthropic_runs_a_loop_of_tools(anthropic: Any) -> None:
    tools = [{"name": "look", "description": "Looks.", "input_schema": AT}]
    asked: dict[str, Any] = {"model": "claude-here", "max_tokens": 500, "tools": tools}
    messages: list[Any] = [{"role": "user", "content": "What is in a?"}]
    with anthropic.messages.stream(**asked, thinking=THINKS, messages=messages) as stream:
        heard = [event.type for event in stream]
        first = stream.get_final_message()
    assert {"thinking", "signature", "text", "input_json"} <= set(heard)
    assert [block.type for block in first.content] == ["thinking", "text", "tool_use"]
    assert first.stop_reason == "tool_use" and first.content[2].input == {"at": "a b"}
    result = {"type": "tool_result", "tool_use_id": first.content[2].id, "content": "so"}
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = anthropic.messages.create(**asked, thinking=THINKS, messages=messages)
    assert second.content[-1].text == "It says so."
    used = second.usage
    read = used.input_tokens + used.cache_read_input_tokens
    assert used.cache_read_input_tokens > first.usage.input_tokens
    del asked["max_tokens"]
    counted = anthropic.messages.count_tokens(**asked, thinking=THINKS, messages=messages)
    assert counted.input_tokens == read


def test_anthropic_raises_its_own_errors(anthropic: Any) -> None:
    import anthropic as sdk

    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    with pytest.raises(sdk.NotFoundError, match="claude-here"):
        anthropic.messages.create(model="gpt", max_tokens=9, messages=messages)
    with pytest.raises(sdk.BadRequestError, match="temperature must be a number from 0"):
        anthropic.messages.create(
            model="claude-here", max_tokens=9, messages=messages, extra_body={"temperature": -1}
        )


def test_openai_runs_a_loop_of_tools_on_responses(openai: Any) -> None:
    tools: Any = [{"type": "function", "name": "look", "parameters": AT, "strict": False}]
    sealed: Any = ["reasoning.encrypted_content"]
    with openai.responses.stream(
        model="scripted", input="What is in a?", tools=tools, include=sealed
    ) as stream:
        heard = [event.type for event in stream]
        first = stream.get_final_response()
    assert heard[0] == "response.created" and heard[-1] == "response.completed"
    assert [item.type for item in first.output] == ["reasoning", "message", "function_call"]
    call = first.output[2]
    assert call.arguments == '{"at": "a b"}'
    told: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "so"}
    by_id = openai.responses.create(
        model="scripted", previous_response_id=first.id, input=[told], tools=tools
    )
    question: Any = {"role": "user", "content": "What is in a?"}
    whole = openai.responses.create(
        model="scripted", input=[question, *first.output, told], tools=tools, store=False
    )
    for second in (by_id, whole):
        assert second.output_text == "It says so."
        assert second.usage.input_tokens_details.cached_tokens >= first.usage.total_tokens - 1
    assert openai.responses.retrieve(by_id.id).output_text == "It says so."
    openai.responses.delete(by_id.id)


def test_openai_reads_the_likeliest_tokens(openai: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is in a?"}]
    changes = {"logit_bias": {"5": -100}, "presence_penalty": 1.5, "frequency_penalty": 0.5}
    asked = {"model": "scripted", "messages": messages, "logprobs": True, "top_logprobs": 3}
    (choice,) = openai.chat.completions.create(**asked, **changes).choices
    told = choice.logprobs.content
    with openai.chat.completions.stream(**asked, **changes) as stream:
        heard = [event for event in stream if event.type == "logprobs.content.delta"]
    assert [one for event in heard for one in event.content] == told
    assert "".join(one.token for one in told).startswith("Let me look.")
    assert all(len(one.top_logprobs) == 3 for one in told)
    included: Any = ["message.output_text.logprobs"]
    responded = openai.responses.create(
        model="scripted", input="What is in a?", include=included, top_logprobs=3
    )
    (text,) = [item for item in responded.output if item.type == "message"]
    assert [one.token for one in text.content[0].logprobs] == [one.token for one in told]
    assert all(len(one.top_logprobs) == 3 for one in text.content[0].logprobs)


def test_openai_gets_a_call_in_the_old_form(openai: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is in a?"}]
    functions: Any = [{"name": "look", "parameters": AT}]
    asked = {"model": "scripted", "functions": functions}
    (choice,) = openai.chat.completions.create(**asked, messages=messages).choices
    assert choice.finish_reason == "function_call"
    call = choice.message.function_call
    assert (call.name, call.arguments) == ("look", '{"at": "a b"}')
    result = {"role": "function", "name": "look", "content": "so"}
    messages += [choice.message.to_dict(), result]
    (second,) = openai.chat.completions.create(**asked, messages=messages).choices
    assert second.message.content == "It says so."


def test_openai_raises_its_own_errors(openai: Any) -> None:
    import openai as sdk

    with pytest.raises(sdk.BadRequestError, match="is not kept here"):
        openai.responses.create(model="scripted", previous_response_id="resp_x", input="Hi")
    with pytest.raises(sdk.NotFoundError, match="scripted"):
        openai.responses.create(model="gpt", input="Hi")


def test_openai_runs_a_loop_of_tools_on_chat_completions(openai: Any) -> None:
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": AT}}]
    messages: list[Any] = [{"role": "user", "content": "What is in a?"}]
    with openai.chat.completions.stream(
        model="scripted", messages=messages, tools=tools, stream_options={"include_usage": True}
    ) as stream:
        for _ in stream:
            continue
        first = stream.get_final_completion()
    message = first.choices[0].message
    assert message.content == "Let me look."
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == ("look", '{"at": "a b"}')
    messages += [
        message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": "so"},
    ]
    second = openai.chat.completions.create(model="scripted", messages=messages, tools=tools)
    assert second.choices[0].message.content == "It says so."
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.total_tokens - 1
