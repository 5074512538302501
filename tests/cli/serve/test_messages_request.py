"""Bodies of Anthropic's messages: what the model reads of them."""

from typing import Any

import pytest

from cli.serve.faults import RequestFault
from cli.serve.messages import MessagesCounter, MessagesDialect
from cli.serve.sealing import Seals
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.serving.request import AnswerFormat, GenerationRequest, ToolChoice
from tests.cli.serve.driven import Server, context, script

SEALS = Seals.for_now()
WEATHER = {"name": "weather", "description": "Tells it.", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}


def body(*messages: Any, **fields: Any) -> dict[str, Any]:
    told = messages or ({"role": "user", "content": "Hi"},)
    return {"model": "nano", "max_tokens": 99, "messages": list(told), **fields}


def read(*messages: Any, **fields: Any) -> GenerationRequest:
    return MessagesDialect(SEALS).read(body(*messages, **fields), context()).request


def refused(*messages: Any, **fields: Any) -> RequestFault:
    with pytest.raises(RequestFault) as raised:
        read(*messages, **fields)
    return raised.value


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(said: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **fields}


def result(name: str, content: Any = "", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": name, "content": content, **fields}


def call(name: str, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": name, "name": "weather", "input": given}


def test_a_system_of_blocks_loses_its_billing_line_alone() -> None:
    server = Server(MessagesDialect(SEALS), script("Yes."))
    blocks = [text("x-anthropic-billing-header: cch=1;"), text("Be."), text("Do.")]
    prompts = {
        server.prompt(body(system=system))
        for system in (blocks, blocks[1:], "Be.\n\nDo.", [text("Be.\n\nDo.", cache_control={})])
    }
    assert len(prompts) == 1
    assert "Be.\n\nDo." in prompts.pop()


def test_results_stand_in_the_order_of_the_calls_and_texts_where_they_were() -> None:
    first = {"role": "user", "content": "Where?"}
    said = {"role": "assistant", "content": [text("I look."), call("one"), call("two", at=1)]}
    sent = user(result("two", [text("2")]), result("one", "1", is_error=False), text("Now?"))
    server = Server(MessagesDialect(SEALS), script("Yes."))
    prompt = server.prompt(body(first, said, sent, tools=[WEATHER]))
    assert prompt.index("1</tool_result>") < prompt.index("2</tool_result>") < prompt.index("Now?")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (result("a", None), ""),
        (result("a", [text("x"), text("y")]), "x\n\ny"),
        (result("a", "no such file", is_error=True), "Error: no such file"),
        (result("a", "Error: no", is_error=True), "Error: no"),
        (result("a", "", is_error=True), "Error"),
        (result("a", [{"type": "image", "source": {}}]), "[image: this model reads text alone]"),
    ],
)
def test_what_a_tool_gave(given: Any, told: str) -> None:
    messages = read({"role": "assistant", "content": [call("a")]}, user(given)).messages
    assert messages[1] == {"role": "tool", "tool_call_id": "a", "content": told}


def test_system_messages_in_the_middle_stay_there() -> None:
    server = Server(MessagesDialect(SEALS), script("Yes."))
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    before = server.prompt(body(*said, {"role": "user", "content": "So?"}))
    left = {"role": "system", "content": [text("<total_tokens>7 left</total_tokens>")]}
    after = server.prompt(body(*said, {"role": "user", "content": "So?"}, left))
    start = before[: before.index("So?") + 3]
    assert after.startswith(start) and "7 left" in after[len(start) :]


def test_a_seal_gives_the_reasoning_whatever_became_of_its_text() -> None:
    sealed = SEALS.seal("somebody", "I think. ")
    for thinking in ("", "I think.", "I think. "):
        block = {"type": "thinking", "thinking": thinking, "signature": sealed}
        message = read({"role": "assistant", "content": [block, text("Hm.")]}, user()).messages[0]
        assert message["reasoning_content"] == "I think. "


@pytest.mark.parametrize("signature", ["", "EqQBCkYIBxgC", None, 7])
def test_thinking_of_others_is_the_text_that_it_is(signature: object) -> None:
    block = {"type": "thinking", "thinking": "We think.", "signature": signature}
    hidden = {"type": "redacted_thinking", "data": "EqQBCkYIBxgC"}
    message = read({"role": "assistant", "content": [block, hidden, text("Hm.")]}, user())
    assert message.messages[0]["reasoning_content"] == "We think."


def test_hidden_thinking_that_was_sealed_here_is_read() -> None:
    block = {"type": "redacted_thinking", "data": SEALS.seal("somebody", "I think.")}
    message = read({"role": "assistant", "content": [block, text("Hm.")]}, user()).messages[0]
    assert message["reasoning_content"] == "I think."


@pytest.mark.parametrize(
    ("fields", "level", "budget"),
    [
        ({}, "none", None),
        ({"output_config": {"effort": "max"}}, "none", None),
        ({"thinking": {"type": "disabled"}}, "none", None),
        ({"thinking": {"type": "adaptive"}}, "low", None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "max", None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}, "high", None),
        ({"thinking": {"type": "enabled", "budget_tokens": 4000}}, "low", 4000),
    ],
)
def test_thinking_is_what_is_asked_for(fields: Any, level: str, budget: int | None) -> None:
    settings = read(**fields).settings
    assert (settings.thinking.level, settings.budget) == (level, budget)


def test_the_highest_level_is_the_highest_that_the_context_is_large_enough_for() -> None:
    fields = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}
    small = context(checkpoint=type(context().checkpoint)("2026-07-31", 4096))
    request = MessagesDialect(SEALS).read(body(**fields), small).request
    assert request.settings.thinking == Thinking("thinking", "high")


@pytest.mark.parametrize(
    ("asked", "choice", "several"),
    [
        (None, ToolChoice(), True),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(), False),
        ({"type": "any"}, ToolChoice("required"), True),
        ({"type": "none"}, ToolChoice("none"), True),
        ({"type": "tool", "name": "weather"}, ToolChoice("named", "weather"), True),
        ({"type": "tool", "name": "web_search"}, ToolChoice(), True),
    ],
)
def test_which_tools_are_called(asked: Any, choice: ToolChoice, several: bool) -> None:
    request = read(tools=[WEATHER, SEARCH], tool_choice=asked)
    assert (request.tool_choice, request.several_calls) == (choice, several)


def test_tools_that_a_server_runs_are_left_out() -> None:
    request = read(tools=[SEARCH, {**WEATHER, "cache_control": {"type": "ephemeral"}}])
    parameters = WEATHER["input_schema"]
    told = {"name": "weather", "description": "Tells it.", "parameters": parameters}
    assert request.settings.tools == (told,)
    assert read(tools=[SEARCH], tool_choice={"type": "any"}).tool_choice == ToolChoice()
    served = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    message = {"role": "assistant", "content": [served, found, text("So.")]}
    assert read(message, user()).messages[0] == {"role": "assistant", "content": "So."}


def test_a_format_and_the_numbers_of_a_reply() -> None:
    schema = {"type": "object"}
    for field in (
        {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
        {"output_format": {"type": "json_schema", "schema": schema}},
    ):
        assert read(**field).answer_format == AnswerFormat("schema", schema)
    settings = read(temperature=0, top_p=0.5, top_k=3, stop_sequences=["END"]).settings
    sampling = settings.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0, 0.5, 3)
    assert (settings.stop, settings.max_tokens) == (("END",), 99)


def test_titles_are_beside_a_conversation() -> None:
    title = {"format": {"type": "json_schema", "schema": {}}}
    assert read(output_config=title).is_side
    assert not read(tools=[WEATHER]).is_side
    assert not read(max_tokens=32000).is_side


def test_documents_of_text_are_text() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "Once."}
    given = {"type": "document", "source": source, "title": "Tale"}
    assert read(user(given, text("Why?"))).messages[0]["content"] == "Tale\nOnce.\n\nWhy?"


@pytest.mark.parametrize(
    ("faulty", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        ({"messages": [user({"type": "image", "source": {}})]}, "messages.0.content.0"),
        ({"messages": [user({"type": "tool_result"})]}, "messages.0.content.0.tool_use_id"),
        ({"messages": [{"role": "assistant", "content": [{}]}]}, "messages.0.content.0.type"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": [7]}, "stop_sequences"),
        ({"system": 7}, "system"),
        ({"tools": [{"name": ""}]}, "tools.0.name"),
        ({"tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, None),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"model": "gpt"}, "model"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_which_field(faulty: Any, field: str | None) -> None:
    fault = refused(**faulty).fault
    assert fault.sentence.endswith(".")
    assert field is None or fault.field == field
    kind = "not_found_error" if fault.kind == "unknown_model" else "invalid_request_error"
    answer = MessagesDialect(SEALS).error(fault)
    assert answer.body["error"] == {"type": kind, "message": fault.sentence}


def test_tokens_are_counted_as_they_are_read() -> None:
    server = Server(MessagesDialect(SEALS), script("Yes."))
    asked = body(system="Be.", tools=[WEATHER], thinking={"type": "adaptive"})
    counter = MessagesCounter(SEALS)
    tokens = server.service.prompts.count(counter.read(asked, context()))
    done = server.ask(asked).done
    assert done is not None
    assert counter.counted(tokens) == {"input_tokens": done.usage.prompt_tokens}
