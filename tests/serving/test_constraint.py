"""Answers held to a grammar, on a model that would say anything."""

import json
import re
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.events import ReasoningDelta, TextDelta, ToolCall
from dsv4_mlx.chat.schema import Schema
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokens import END_THINK
from dsv4_mlx.engine.generation import make_sampler
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import UsageError
from dsv4_mlx.scripted.fake import FakeModel, fake_engine
from dsv4_mlx.serving.constraint import AnswerConstraint, SymbolState, TokenSymbols
from dsv4_mlx.serving.dsml_grammar import CallGrammar
from dsv4_mlx.serving.events import CallBegun, Collected, ServedEvent
from dsv4_mlx.serving.grammar import GrammarState
from dsv4_mlx.serving.json_grammar import object_grammar, schema_grammar
from dsv4_mlx.serving.request import AnswerFormat, GenerationRequest, ToolChoice
from dsv4_mlx.serving.service import Service
from tests.serving.drawing import require_shares
from tests.serving.served import ended, tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "size": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["name", "size", "tags"],
}
TOOLS = (
    {"name": "read", "parameters": SCHEMA},
    {"name": "list", "parameters": {"type": "object", "properties": {}}},
)


class Closing(FakeModel):
    """Says anything, but likes to come to an end."""

    def logits(self, history: Any) -> np.ndarray:
        values = super().logits(history)
        quote, brace, bracket, less, slash = (tokenizer().encode(one)[0] for one in '"}]</')
        values[[quote, brace, bracket, less]] += 6.0
        if history[-1] == less:
            values[slash] += 30.0
        if list(history[-2:]) == [less, slash]:
            values[tokenizer().control_ids["｜DSML｜"]] += 60.0
        return values


def answered(
    temperature: float = 0.0, seed: int = 1, level: str | None = None, budget: int | None = None,
    model: type[FakeModel] = Closing, **options: Any,
) -> list[ServedEvent]:  # fmt: skip
    """The events of one answer."""
    thinking = Thinking("chat") if level is None else Thinking("thinking", level)
    settings = AnswerSettings(
        thinking,
        tools=options.pop("tools", ()),
        sampling=Sampling(temperature, seed=seed),
        max_tokens=400,
        budget=budget,
        loops="off",
    )
    engine = fake_engine(model(vocab_size=tokenizer().vocab_size), prefill_chunk=64)
    service = Service(engine, tokenizer(), "2026-07-31")
    outlet = Collected()
    messages = [{"role": "user", "content": "Well?"}]
    service.serve(GenerationRequest(messages, settings, **options), outlet)
    while service.scheduler.step():
        pass
    return list(outlet.of())


def text(events: list[ServedEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("temperature, seed", [(0.0, 1), (1.0, 1), (1.0, 2)])
def test_an_answer_is_json_that_the_schema_allows(temperature: float, seed: int) -> None:
    events = answered(temperature, seed, answer_format=AnswerFormat("schema", SCHEMA))
    assert ended(events).finish_reason == "stop"
    assert Schema(SCHEMA, SCHEMA).allows(json.loads(text(events)))


def test_json_mode_gives_an_object() -> None:
    events = answered(answer_format=AnswerFormat("json"))
    assert isinstance(json.loads(text(events)), dict)


@pytest.mark.parametrize("kind, name", [("required", ""), ("named", "read"), ("named", "list")])
def test_a_call_that_is_asked_for_comes_with_arguments_by_its_schema(kind: Any, name: str) -> None:
    events = answered(tools=TOOLS, tool_choice=ToolChoice(kind, name), several_calls=False)
    done = ended(events)
    assert done.finish_reason == "tool_calls" and text(events) == ""
    (call,) = (event for event in events if isinstance(event, ToolCall))
    assert call.name == name or kind == "required"
    if call.name == "read":
        assert Schema(SCHEMA, SCHEMA).allows(json.loads(call.arguments))


def test_what_is_not_allowed_is_in_the_prompt_all_the_same() -> None:
    def prompt(choice: ToolChoice) -> tuple[int, ...]:
        settings = AnswerSettings(Thinking("chat"), tools=TOOLS)
        engine = fake_engine(FakeModel(vocab_size=tokenizer().vocab_size))
        service = Service(engine, tokenizer(), "2026-07-31")
        asked = GenerationRequest([{"role": "user", "content": "Hi"}], settings, tool_choice=choice)
        return service.prompts.write(asked).tokens

    assert prompt(ToolChoice(allowed=("list",))) == prompt(ToolChoice())


def test_reasoning_is_free_and_the_grammar_begins_after_it() -> None:
    events = answered(level="high", budget=20, answer_format=AnswerFormat("schema", SCHEMA))
    reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    assert reasoning and not reasoning.startswith("{")
    assert Schema(SCHEMA, SCHEMA).allows(json.loads(text(events)))
    assert ended(events).usage.reasoning_tokens >= 20


class Calling(FakeModel):
    """Wants to call a tool, and nothing else."""

    def logits(self, history: Any) -> np.ndarray:
        values = super().logits(history)
        values[tokenizer().control_ids["｜DSML｜"]] = 50.0
        return values


class Repeating(FakeModel):
    """Thinks where it may, says a word and then calls one tool for ever."""

    def logits(self, history: Any) -> np.ndarray:
        values = super().logits(history)
        controls, said = tokenizer().control_ids, list(history)
        if controls["<｜Assistant｜>"] not in said[:-1]:
            return values
        start = said.index(controls["<｜Assistant｜>"]) + 2
        thinks = said[start - 1] == controls["<think>"]
        wanted = "Now.</think>" if thinks else ""
        wanted += "Well.\n\n<｜DSML｜tool_calls>\n"
        call = '<｜DSML｜invoke name="list">\n\n</｜DSML｜invoke>\n'
        tokens = written(wanted) + 40 * written(call)
        values[tokens[len(said) - start]] = 50.0
        return values


def written(text: str) -> list[int]:
    """The tokens of a text with control tokens in it."""
    found: list[int] = []
    for piece in re.split("(</think>|｜DSML｜)", text):
        control = tokenizer().control_ids.get(piece)
        found += tokenizer().encode(piece) if control is None else [control]
    return found


@pytest.mark.parametrize("level", [None, "high"])
def test_where_one_call_at_most_is_wanted_text_is_free_and_one_call_comes(
    level: str | None,
) -> None:
    def called(several: bool) -> int:
        events = answered(tools=TOOLS, model=Repeating, level=level, several_calls=several)
        if not several:
            assert text(events) == "Well." and ended(events).finish_reason == "tool_calls"
        return sum(isinstance(event, ToolCall) for event in events)

    assert called(several=False) == 1 < called(several=True)


@pytest.mark.parametrize("kind", ["auto", "required"])
@pytest.mark.parametrize("allowed", ["list", "read"])
@pytest.mark.parametrize("several", [True, False])
def test_only_what_is_allowed_is_called(kind: Any, allowed: str, several: bool) -> None:
    choice = ToolChoice(kind, allowed=(allowed,))
    options = {"tools": TOOLS, "tool_choice": choice, "several_calls": several}
    events = answered(model=Repeating, **options)
    assert text(events).startswith("Well.") is (kind == "auto")
    called = [event.name for event in events if isinstance(event, CallBegun)]
    assert set(called) == {allowed} and (several or len(called) == 1)


def test_where_nothing_is_allowed_nothing_is_called() -> None:
    events = answered(tools=TOOLS, model=Calling, tool_choice=ToolChoice(allowed=()))
    assert not any(isinstance(event, CallBegun) for event in events) and text(events)


def test_a_call_of_which_the_end_only_seems_to_come_goes_on(symbols: TokenSymbols) -> None:
    grammar = CallGrammar(TOOLS, tokenizer().control_ids).at_most_one()
    free = GrammarState.at(grammar)
    for text in ("<</｜DSML｜invok<", "</｜DSML｜<</｜DSML｜parameter>", "｜DSML｜invoke>\n<"):
        for token in written(text):
            free = free.after_all(symbols.of(token))
        assert free.is_complete and len(free.following()) > 256
    for token in written("</｜DSML｜invoke>"):
        free = free.after_all(symbols.of(token))
    assert not free.is_complete and free.following() == {ord("\n")}


def test_no_call_comes_where_none_is_wanted() -> None:
    events = answered(tools=TOOLS, tool_choice=ToolChoice("none"), model=Calling)
    assert not any(isinstance(event, ToolCall) for event in events)
    assert "DSML" not in text(events)


def test_with_tools_and_a_format_both_may_come() -> None:
    events = answered(tools=TOOLS, answer_format=AnswerFormat("schema", SCHEMA))
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert calls or Schema(SCHEMA, SCHEMA).allows(json.loads(text(events)))


def test_a_tool_that_there_is_not_is_refused_before_anything_waits() -> None:
    with pytest.raises(UsageError, match="one of read, list, got 'write'"):
        answered(tools=TOOLS, tool_choice=ToolChoice("named", "write"))
    with pytest.raises(UsageError, match="no tools are given"):
        answered(tool_choice=ToolChoice("required"))


# Masks


@pytest.fixture(scope="module")
def symbols() -> TokenSymbols:
    return TokenSymbols(tokenizer())


@pytest.mark.parametrize("begun", ["", "{", '{"na', '{"name": "', '{"name": "a", "size": 1', "{}"])
def test_all_tokens_at_once_are_those_that_fit_one_by_one(
    symbols: TokenSymbols, begun: str
) -> None:
    for grammar in (object_grammar(), schema_grammar(SCHEMA)):
        state = GrammarState.at(grammar).after_all(begun.encode())
        one_by_one = [
            token
            for token in range(tokenizer().vocab_size)
            if symbols.of(token) and state.after_all(symbols.of(token))
        ]
        assert sorted(symbols.fitting(state)) == one_by_one


def test_drawing_again_gives_what_a_mask_gives(symbols: TokenSymbols) -> None:
    """Of four tokens of which two fit, each is drawn as often as its share of these two."""
    held = AnswerConstraint(tokenizer(), SymbolState(symbols, object_grammar()), thinks=False)
    require_shares(held)


def test_the_likeliest_token_that_fits_is_taken_however_unlikely(symbols: TokenSymbols) -> None:
    held = AnswerConstraint(tokenizer(), SymbolState(symbols, object_grammar()), thinks=False)
    logprobs = mx.array(-np.arange(2048, dtype=np.float32))
    expected = next(token for token in range(2048) if held.allows(token))
    assert int(held.sampler(make_sampler())(logprobs).item()) == expected
    assert END_THINK in tokenizer().control_ids
