"""Help as data: checked against the program, wordings with one answer, held-out ones apart."""

import random
import re
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from cli.environment import Environment
from cli.options import help_text, parse
from cli.talk.commands import COMMANDS
from convert import options as converter
from dsv4_mlx.training.data import help as nano_help
from dsv4_mlx.training.data.frames import reframed
from dsv4_mlx.training.data.help import Deck, facts, held_out, program_entries, written_facts
from dsv4_mlx.training.data.wordings import GROUP, plain, slip, typed, wording

ROOT = Path(__file__).parents[3]
CODE = re.compile(r"`([^`]+)`")
CONVERTERS = ("fetch", "calibrate", "verify", "inspect")
FIRST_HELD_OUT = (106, 2707647330)  # how many wordings nano was first measured with, and their sum


def expansions(pattern: str) -> Iterator[str]:
    """Every wording of a pattern: "a (b|c)" gives "a b" and "a c"."""
    parts = GROUP.split(pattern)  # text, alternatives, text, ...
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    for combination in product(*choices):
        yield " ".join("".join(combination).split())


def trained_wordings(fact):
    return {text.lower() for pattern in fact.questions for text in expansions(pattern)}


def program_options() -> set[str]:
    return set(re.findall(r"(?<!\w)-{1,2}[a-z][a-z-]*", help_text(Environment())))


def converter_options() -> set[str]:
    text = "".join(
        make().format_help()
        for make in (
            converter.parser,
            converter.fetch_parser,
            converter.calibrate_parser,
            converter.verify_parser,
            converter.inspect_parser,
        )
    )
    return set(re.findall(r"(?<!\w)-{1,2}[a-z][a-z-]*", text))


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))


def written_code() -> list[str]:
    return [code for fact in facts() for code in CODE.findall(fact.answer)]


def test_a_pattern_stands_for_every_combination():
    found = list(expansions("(a|b) c( d|)"))
    assert found == ["a c d", "a c", "b c d", "b c"]
    rng = random.Random(0)
    assert {wording("(a|b) c( d|)", rng) for _ in range(100)} == set(found)


def test_every_command_of_an_entry_is_one_of_the_program():
    named = {entry["name"] for entry in program_entries()["command"]}
    assert named <= {f"/{name}" for name in COMMANDS}
    assert len(named) == len(program_entries()["command"])
    for entry in program_entries()["command"]:
        assert entry["usage"].split()[0] == entry["name"]


def test_every_option_of_an_entry_is_one_of_the_program():
    for entry in program_entries()["option"]:
        assert entry["name"] in program_options(), entry
        assert entry["name"] in entry["usage"]


def test_every_word_of_the_converter_is_one_of_its_own():
    for entry in program_entries()["converter"]:
        assert entry["name"] in {*CONVERTERS, *converter_options()}, entry
        assert entry["usage"].startswith("dsv4-convert ") and entry["name"] in entry["usage"]


def test_answers_name_only_what_the_program_has():
    """Slash commands, options, make's targets and files, wherever an answer writes them as code."""
    options = {*program_options(), *converter_options()}
    for code in written_code():
        for command in re.findall(r"(?<!\S)/([a-z_]+)", code):
            assert command in COMMANDS, code
        for option in re.findall(r"(?<!\S)(-{1,2}[a-z][a-z-]*)", code):
            assert option in {*options, "-m"}, code
        for target in re.findall(r"^make ([a-z-]+)", code):
            assert target in make_targets(), code
        for module in re.findall(r"python -m ([\w.]+)", code):
            base = ROOT.joinpath(*module.split("."))
            assert base.with_suffix(".py").exists() or (base / "__main__.py").exists(), code
        if re.fullmatch(r"[\w/]+\.md", code):
            assert (ROOT / code).exists(), code


def test_options_as_they_are_taught_are_understood(tmp_path):
    values = {"PATH": str(tmp_path), "TEXT": "a", "NAME": "a", "N": "5", "P": "0.5", "K": "5"}
    values |= {"R": "1.1", "LIST": "metal,-index_topk", "fake:FILE": "fake:x"}
    for entry in program_entries()["option"]:
        if entry["name"] != "--path":  # a word of `config`
            words = [values.get(word, word) for word in entry["usage"].split()]
            assert parse(words, Environment()), entry


def test_names_newer_than_the_data_are_answered_with_help():
    rng = random.Random(0)
    made = {nano_help.made_up(rng, "train") for _ in range(300)}
    others = {nano_help.made_up(rng, "held_out") for _ in range(300)}
    assert len(made) > 100 and len(others) > 10 and not made & others
    assert not made & {*COMMANDS, *(option.strip("-") for option in program_options())}
    newer = {fact.id: fact for fact in facts() if fact.id.startswith("newer")}
    assert "/help" in newer["newer_command"].answer
    assert "--help" in newer["newer_option"].answer
    for fact in newer.values():
        asked = {nano_help.question(fact, rng) for _ in range(50)}
        assert len(asked) > 30 and not any("{" in text for text in asked)


def test_the_questions_nano_was_first_measured_with_stay():
    first = [plain(text) for fact in written_facts() for text in fact.held_out]
    assert (len(first), zlib.crc32("\n".join(sorted(first)).encode())) == FIRST_HELD_OUT
    asked = {plain(text) for _, text in held_out()}
    assert set(first) <= asked and len(held_out()) >= 200


def test_held_out_wordings_are_never_trained():
    trained = {plain(text) for fact in facts() for text in trained_wordings(fact)}
    assert not trained & {plain(text) for _, text in held_out()}


def test_lessons_never_ask_a_held_out_wording():
    rng = random.Random(3)
    deck = nano_help.fact_deck(rng)
    asked = [nano_help.question(deck.draw(), rng) for _ in range(3000)]
    assert not any(map(nano_help.is_held_out, asked))
    assert nano_help.is_held_out("could you describe the HYPER-CONNECTIONS?")
    mhc = next(fact for fact in facts() if fact.id == "mhc")
    assert len({nano_help.question(mhc, rng) for _ in range(500)}) > 200
    assert reframed("How do I leave", rng) != "How do I leave"
    assert reframed("Leave", rng) == "Leave"


def test_no_wording_has_two_answers():
    seen: dict[str, str] = {}
    for fact in facts():
        for text in {*trained_wordings(fact), *map(str.lower, fact.held_out)}:
            assert seen.setdefault(text, fact.id) == fact.id, text


def test_facts_are_answered_by_their_own_answer():
    for fact in facts():
        assert len(trained_wordings(fact)) >= 10, fact.id
        assert fact.answered_by(fact.answer), fact.id
    convert = next(fact for fact in facts() if fact.id == "convert")
    assert "python -m convert" in convert.answer
    assert not convert.answered_by("Type `/quit` to leave the chat.")


def test_no_sum_is_off_topic():
    off_topic = next(fact for fact in facts() if fact.id == "off_topic")
    assert not [
        text for text in trained_wordings(off_topic) if re.search(r"plus|minus|\d \+", text)
    ]


@pytest.mark.parametrize("slips", [True, False])
def test_typing_keeps_the_letters_unless_fingers_slip(slips):
    rng = random.Random(0)
    found = {typed("Read src/Main.py", rng, slips=slips) for _ in range(300)}
    assert all("src/Main.py" in text for text in found) != slips
    assert slip("a", rng) == "a" and slip("12 34", rng) == "12 34"


def test_a_deck_gives_every_card_before_any_comes_again():
    deck = Deck(random.Random(0), list(range(5)))
    assert sorted(deck.draw() for _ in range(5)) == list(range(5))
    assert sorted(deck.draw() for _ in range(5)) == list(range(5))
