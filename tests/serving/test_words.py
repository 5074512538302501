"""Many words at one place of a grammar: as many as one likes, and none that is not there."""

import json
from gc import collect
from itertools import permutations
from typing import Any
from weakref import ref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.errors import UsageError
from dsv4_mlx.serving.dsml_grammar import CallGrammar
from dsv4_mlx.serving.grammar import MOST_KNOWN, GrammarState, members, text
from dsv4_mlx.serving.json_grammar import MOST_ALTERNATIVES, SchemaGrammar, schema_grammar
from dsv4_mlx.serving.words import Words

SHORT = st.text("ab", max_size=3)


@settings(max_examples=60)
@given(st.lists(SHORT, min_size=1, unique=True), SHORT)
def test_one_of_some_texts_fits_and_every_beginning_tells_what_may_come(
    words: list[str], tried: str
) -> None:
    """Words may begin one another, and one may be empty."""
    state = GrammarState.at((Words.one_of(words),))
    for place in range(len(tried) + 1):
        read = tried[:place]
        beginning = [word for word in words if word.startswith(read)]
        assert bool(state) == bool(beginning)
        assert state.is_complete == (read in words)
        goes_on = {word[place].encode()[0] for word in beginning if len(word) > place}
        assert state.following() == goes_on
        state = state.after_all(tried[place : place + 1].encode())


@pytest.mark.parametrize("needed", [(), ("a",), ("a", "ba")])
def test_members_come_in_any_order_each_once_and_the_needed_ones_all(
    needed: tuple[str, ...],
) -> None:
    names = ("a", "ab", "ba")
    choices = {name: (text(name), text(":"), text("1")) for name in names}
    state = GrammarState.at((members(choices, frozenset(needed), (text(","),)),))
    tried = [order for size in range(4) for order in permutations(names, size)]
    for order in (*tried, ("a", "a"), ("ab", "a", "ab"), ("b",), ("aba",)):
        written = ",".join(f"{name}:1" for name in order)
        expected = set(needed) <= set(order) <= set(names) and len(set(order)) == len(order)
        assert state.after_all(written.encode()).is_complete == expected, written
    for order in tried[1:]:
        written = ",".join(f"{name}:1" for name in order) + ","
        others = {name.encode()[0] for name in names if name not in order}
        assert state.after_all(written.encode()).following() == others


def properties(count: int) -> dict[str, Any]:
    named = {f"property {place}": {"type": "integer"} for place in range(count)}
    return {"type": "object", "properties": named, "required": list(named)}


def test_thousands_of_properties_are_followed_like_a_few() -> None:
    many, few = (GrammarState.at(schema_grammar(properties(count))) for count in (4000, 10))
    for beginning in ('{ "property ', "1", '": 5', ',\n "property 2', '": 6 ,'):
        many, few = (state.after_all(beginning.encode()) for state in (many, few))
        assert len(many.stacks) == len(few.stacks) <= 12
    assert not many.after_all(b' "property 1"')
    assert many.after_all(b' "property 3999": 1')


def test_thousands_of_values_are_followed_like_a_few() -> None:
    values = [f"value {place}" for place in range(4000)]
    state = GrammarState.at(schema_grammar({"enum": values})).after_all(b'"value ')
    assert len(state.stacks) == 1 and state.after_all(b'3999"').is_complete
    assert not state.after_all(b"4000")
    tool = {"name": "set", "parameters": {"properties": {"to": {"enum": [*values, 5]}}}}
    call = '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="set">\n'
    call += '<｜DSML｜parameter name="to" string="true">'
    state = GrammarState.at(CallGrammar([tool], {}).calls(["set"], several=False))
    state = state.after_all(call.encode())
    assert len(state.stacks) == 1 and state.after_all("value 77</｜DSML｜parameter>".encode())


def test_nothing_is_made_while_a_grammar_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {
        "$defs": {
            "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/link"}}},
            "link": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        },
        "$ref": "#/$defs/node",
    }
    grammar = schema_grammar(schema)

    def made(self: SchemaGrammar, content: object) -> Any:
        raise AssertionError(content)

    monkeypatch.setattr(SchemaGrammar, "value", made)
    written = json.dumps({"next": {"next": None}})
    assert GrammarState.at(grammar).after_all(written.encode()).is_complete


def test_a_grammar_is_free_with_the_last_of_its_states() -> None:
    grammar = schema_grammar(properties(1000))
    states = [GrammarState.at(grammar), GrammarState.at(grammar)]
    states = [state.after_all(b'{"property 17": 5, "property 1') for state in states]
    listed = [ref(one.listed) for one in members_in(states[0])]
    assert listed and all(one() is not None for one in listed)
    del grammar, states
    collect()
    assert [one() for one in listed] == [None] * len(listed)


def members_in(state: GrammarState) -> list[Words]:
    return [stack[0] for stack in state.stacks if stack and isinstance(stack[0], Words)]


def test_what_is_known_of_a_long_answer_is_bounded() -> None:
    letters = MOST_KNOWN + 100
    state = GrammarState.at(schema_grammar({"type": "string", "maxLength": letters}))
    state = state.after_all(b'"' + b"a" * letters)
    assert len(state._known) == MOST_KNOWN
    assert state.after_all(b'"').is_complete and not state.after_all(b"a")


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_more_alternatives_than_can_be_followed_are_refused(keyword: str) -> None:
    ways = [{"type": "object", "properties": {str(one): {}}} for one in range(MOST_ALTERNATIVES)]
    assert schema_grammar({keyword: ways})
    with pytest.raises(UsageError, match=rf"^{keyword} of a schema may list 500 .*, got 501;"):
        schema_grammar({keyword: [*ways, {}]})
    tool = {"name": "set", "parameters": {"properties": {"to": {keyword: [*ways, {}]}}}}
    with pytest.raises(UsageError, match="may list 500"):
        CallGrammar([tool], {}).calls(["set"], several=False)
