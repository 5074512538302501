"""Answers held by the engine of grammars to what our own grammar leaves out, drawn at random."""

import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.events import ReasoningDelta
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokens import DSML
from dsv4_mlx.engine.generation import make_sampler
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import UsageError
from dsv4_mlx.scripted.fake import fake_engine
from dsv4_mlx.serving.constraint import AnswerConstraint, Constraints
from dsv4_mlx.serving.engine_grammar import EngineState, EngineVocabulary, engine_grammar_of
from dsv4_mlx.serving.events import Collected
from dsv4_mlx.serving.request import AnswerFormat, GenerationRequest, ToolChoice
from dsv4_mlx.serving.service import Service
from dsv4_mlx.serving.unheld import unheld, unheld_of
from tests.serving.drawing import require_shares
from tests.serving.engine_cases import EVEN, HELD, SEVENS, TWO, mapping, number, one, string
from tests.serving.served import ended, tokenizer
from tests.serving.test_constraint import Closing, answered, text

DRAWS = 200
MOST_TOKENS = 150


@cache
def vocabulary() -> EngineVocabulary:
    return EngineVocabulary(tokenizer())


def states(schema: Any) -> Callable[[], EngineState]:
    found = engine_grammar_of(schema, unheld(schema))
    assert found is not None
    return found.states(vocabulary())


def written(text: str) -> list[int]:
    """The tokens of single bytes that write a text."""
    return [vocabulary().tokens.index(bytes([byte])) for byte in text.encode()]


def value_of(data: bytes) -> Any:
    """What data say; ValueError for no JSON, or JSON with spaces around it."""
    if data.strip(b" \t\r\n") != data:
        raise ValueError("spaces around it")
    return json.loads(data.decode(), parse_float=Decimal)


def is_whole(data: bytes, allows: Callable[[Any], bool]) -> bool:
    try:
        return allows(value_of(data))
    except (ValueError, AttributeError, TypeError):
        return False


@cache
def closing() -> frozenset[int]:
    """Tokens that bring an answer to its end."""
    listed = enumerate(vocabulary().tokens)
    return frozenset(token for token, data in listed if data in (b'"', b"}", b"]", b"0"))


def drawn(state: EngineState, allows: Callable[[Any], bool], random: np.random.Generator) -> bytes:
    """An answer of random tokens, which likes to come to an end; that it may end just where it is
    whole is seen at each of them. None that is too long."""
    data = b""
    for _ in range(MOST_TOKENS):
        assert state.is_complete == is_whole(data, allows), data
        fitting = state.fitting()
        if not fitting:
            break
        last = [token for token in fitting if token in closing()]
        token = int(random.choice(last if last and random.random() < 0.6 else fitting))
        assert state.fits(token)
        state.take(token)
        data += vocabulary().tokens[token]
    return data if state.is_complete else b""


@pytest.mark.parametrize("name", HELD)
def test_what_ours_leaves_out_is_held(name: str) -> None:
    schema, left, allows = HELD[name]
    assert unheld(schema) == left
    asked = GenerationRequest([], answer_format=AnswerFormat("schema", schema))
    assert unheld_of(asked) == []
    new, random = states(schema), np.random.default_rng(1)
    answers = [drawn(new(), allows, random) for _ in range(DRAWS)]
    assert len(set(answers) - {b""}) > (2 if name == "one at most" else DRAWS / 10)
    assert answers.count(b"") < DRAWS / 10


@pytest.mark.parametrize("begun", ["", "{", '{"v', '{"v":', '{"v": 1', '{"v":14}'])
def test_all_tokens_at_once_are_those_that_fit_one_by_one(begun: str) -> None:
    state = states(SEVENS)()
    for token in written(begun):
        state.take(token)
    controls = set(tokenizer().control_ids.values())
    one_by_one = [
        t for t in range(tokenizer().vocab_size + 8) if t not in controls and state.fits(t)
    ]
    assert state.fitting() == one_by_one
    assert not any(state.fits(token) for token in controls - {tokenizer().eos_id})
    assert state.is_complete == (begun[-1:] == "}")


def test_what_has_to_come_may_be_written_by_any_tokens() -> None:
    schema = mapping(properties={"description": EVEN}, required=["description"])
    state = states(schema)()
    for token in written('{"des'):
        state.take(token)
    tokens = [vocabulary().tokens[token] for token in state.fitting()]
    assert b"c" in tokens and len(tokens) > 1
    assert all(b'cription"'.startswith(data.rstrip(b" :\t\n")) for data in tokens)


def test_control_tokens_do_not_come_where_any_text_may() -> None:
    schema = one({"type": "string"}, patternProperties={"^a": {}}, additionalProperties=False)
    state = states(schema)()
    for token in written('{"v":"'):
        state.take(token)
    assert len(state.fitting()) > 1000
    assert not set(tokenizer().control_ids.values()) & set(state.fitting())
    # Half a character is a token too, and the other half has to follow.
    state.take(written("é")[0])
    assert written("é")[1] in state.fitting()
    assert all(0x80 <= vocabulary().tokens[token][0] < 0xC0 for token in state.fitting())


@pytest.mark.parametrize("level", [None, "high"])
def test_an_answer_of_a_service_is_held(level: str | None) -> None:
    schema = one({"type": "integer", "multipleOf": 7, "maximum": 9999})
    for seed in range(3):
        events = answered(
            1.0,
            seed,
            level=level,
            budget=level and 20,
            answer_format=AnswerFormat("schema", schema),
        )
        value = json.loads(text(events))
        assert ended(events).finish_reason == "stop" and value["v"] % 7 == 0
        reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
        assert bool(reasoning) == (level is not None) and not reasoning.startswith("{")


def test_answers_of_one_request_are_followed_apart() -> None:
    schema = one({"type": "integer", "multipleOf": 7, "maximum": 9999})
    settings = AnswerSettings(
        Thinking("chat"), sampling=Sampling(1.0, seed=1), max_tokens=400, loops="off"
    )
    engine = fake_engine(Closing(vocab_size=tokenizer().vocab_size), prefill_chunk=64)
    service, outlet = Service(engine, tokenizer(), "2026-07-31"), Collected()
    messages, asked = [{"role": "user", "content": "Well?"}], AnswerFormat("schema", schema)
    service.serve(GenerationRequest(messages, settings, answer_format=asked, answers=3), outlet)
    while service.scheduler.step():
        pass
    said = [text(list(outlet.of(number))) for number in range(3)]
    assert len(set(said)) == 3 and all(json.loads(one)["v"] % 7 == 0 for one in said)


def test_states_of_one_grammar_know_nothing_of_one_another() -> None:
    new = states(SEVENS)
    one, other = new(), new()
    for token in written('{"v":14}'):
        one.take(token)
    assert one.is_complete and not other.is_complete
    for token in written('{"v":21}'):
        assert other.fits(token)
        other.take(token)
    assert other.is_complete and other.fitting() == []


def test_drawing_again_gives_what_a_mask_gives() -> None:
    held = AnswerConstraint(tokenizer(), states(HELD["patterns of names"][0])(), thinks=False)
    held.take(written("{")[0])
    right = require_shares(held)
    likeliest = mx.array(-np.arange(2048, dtype=np.float32))
    assert int(held.sampler(make_sampler())(likeliest).item()) == right[0]


# What is used, and what is said


@pytest.mark.parametrize(
    "schema, left",
    [
        ({**SEVENS, "not": {"required": ["w"]}}, ["not"]),
        (one({"type": "array", "items": EVEN, "uniqueItems": True}), ["uniqueItems"]),
        (one({"type": "array", "items": EVEN, "contains": {"const": 2}}), ["contains"]),
        ({**number(multipleOf=0.25), "if": {}, "then": {}}, ["if"]),
        (mapping(properties=TWO, minProperties=1, dependentRequired={}), ["dependentRequired"]),
        ({"anyOf": [number(multipleOf=0.5), string(format="iri")]}, ["format"]),
        ({"anyOf": [number(multipleOf=0.5), string(pattern="(?=a)")]}, ["pattern"]),
        ({"anyOf": [number(minimum=0.5), number(multipleOf=0.07)]}, ["multipleOf"]),
        (one({"oneOf": [EVEN, {"type": "integer", "multipleOf": 3}]}), ["oneOf"]),
        (one({"oneOf": [EVEN, {"properties": {"a": EVEN}}]}), ["oneOf"]),
    ],
)  # fmt: skip
def test_what_the_engine_leaves_out_is_named(schema: dict[str, Any], left: list[str]) -> None:
    asked = GenerationRequest([], answer_format=AnswerFormat("schema", schema))
    assert unheld_of(asked) == left != unheld(schema)
    tools = AnswerSettings(Thinking("chat"), tools=({"name": "list"},))
    with_tools = GenerationRequest([], tools, answer_format=AnswerFormat("schema", schema))
    assert unheld_of(with_tools) == unheld(schema)


@pytest.mark.parametrize(
    "schema",
    [
        one({"type": "integer"}),
        mapping(additionalProperties=EVEN | {"multipleOf": 0.07}),
        mapping(additionalProperties={"type": "null"}, minProperties=2),
        mapping(additionalProperties=EVEN, propertyNames={"pattern": "^a"}),
        mapping(properties={"a": EVEN, "b": {}}, maxProperties=1, additionalProperties={}),
        one({**EVEN, "nullable": True}),
        one({"type": "integer", "multipleOf": 123_457}),
        one(EVEN | {"maximum": 2**60 + 1}),
        one({"anyOf": [EVEN, {"const": "\x01"}]}),
        one({"anyOf": [EVEN, {"enum": [2**70]}]}),
        one({"allOf": [{"$ref": "#"}, EVEN]}),
        {"type": "object", "patternProperties": {"[[a]": EVEN}},
        {"type": "object", "patternProperties": {f"^{n}$": EVEN for n in range(40)}},
        {"$ref": "#/$defs/a0", "$defs": {"a1000": EVEN, **{
            f"a{n}": {"items": {"$ref": f"#/$defs/a{n + 1}"}} for n in range(1000)}}},
    ],
)  # fmt: skip
def test_ours_stays_where_the_engine_holds_no_more_or_takes_it_otherwise(schema: Any) -> None:
    assert engine_grammar_of(schema, unheld(schema)) is None
    asked = GenerationRequest([], answer_format=AnswerFormat("schema", schema))
    assert unheld_of(asked) == unheld(schema)
    Constraints(tokenizer()).of(asked, thinks=False)


def test_two_names_are_never_the_same_one() -> None:
    schema = mapping(properties={"a": EVEN}, additionalProperties={"type": "null"})
    state = states(schema)()
    for token in written('{"a":2,"'):
        state.take(token)
    assert not state.fits(written("\\")[0]) or not follows(state, '\\u0061":null}')
    assert follows(states(schema)(), '{"a":2,"ä":null}')
    assert not follows(states(schema)(), '{"a":2,"a":null}')


def follows(state: EngineState, text: str) -> bool:
    for token in written(text):
        if not state.fits(token):
            return False
        state.take(token)
    return state.is_complete


def test_options_of_the_engine_in_a_schema_are_not_taken() -> None:
    schema = {**SEVENS, "x-guidance": {"lenient": True, "item_separator": ";"}}
    assert follows(states(schema)(), '{ "v" : 14}') and not follows(states(schema)(), '{"v":15}')
    two = mapping(properties={"a": EVEN, "b": EVEN}) | {"x-guidance": {"item_separator": ";"}}
    assert follows(states(two)(), '{"a":2,"b":4}') and not follows(states(two)(), '{"a":2;"b":4}')


def test_objects_are_closed_as_ours_are_and_in_their_order() -> None:
    two = mapping(properties={"a": EVEN, "b": EVEN})
    assert follows(states(two)(), '{"b":4}') and not follows(states(two)(), '{"b":4,"a":2}')
    assert not follows(states(two)(), '{"a":4,"c":2}') and not follows(states(two)(), "5")
    both = {"allOf": [two, mapping(properties={"c": EVEN}, required=["c"])]}
    assert follows(states(both)(), '{"a":4,"c":2}')


ALTERNATIVES = {"anyOf": [one({"const": f"v{number}"}) for number in range(600)]}


def test_many_alternatives_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unheld(ALTERNATIVES) == []
    asked = GenerationRequest([], answer_format=AnswerFormat("schema", ALTERNATIVES))
    held = Constraints(tokenizer()).of(asked, thinks=False)
    assert held is not None and unheld_of(asked) == []
    constraint = held()
    for token in written('{"v":"v599"}'):
        assert constraint.allows(token)
        constraint.take(token)
    assert constraint.allows(tokenizer().eos_id)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match=r"may list 500 alternatives, got 600; list fewer, or"):
        Constraints(tokenizer()).of(asked, thinks=False)


@pytest.mark.parametrize("name", HELD)
def test_without_the_engine_ours_holds_what_it_can(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    schema, left, _ = HELD[name]
    asked = GenerationRequest([], answer_format=AnswerFormat("schema", schema))
    held = Constraints(tokenizer()).of(asked, thinks=False)
    assert held is not None and unheld_of(asked) == left
    constraint = held()
    space, brace = written(" {")
    assert constraint.allows(space) and constraint.allows(brace)
    assert not constraint.allows(tokenizer().control_ids[DSML])


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("named", "list")])
def test_a_choice_of_tools_that_there_are_not_is_refused_all_the_same(choice: ToolChoice) -> None:
    asked = GenerationRequest([], answer_format=AnswerFormat("schema", SEVENS), tool_choice=choice)
    with pytest.raises(UsageError):
        Constraints(tokenizer()).of(asked, thinks=False)


def test_an_engine_that_gives_up_is_a_sentence() -> None:
    state = states(SEVENS)()
    state.take(written("x")[0])
    with pytest.raises(UsageError, match="cannot follow the answer"):
        state.fitting()


def test_it_is_not_loaded_before_a_schema_needs_it() -> None:
    code = "import sys, cli.serve.app; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"llguidance", "numpy", "mlx"}.isdisjoint(found.stdout.split())
