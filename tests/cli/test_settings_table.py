"""Every setting of a conversation can be given everywhere, or there is a reason why not."""

import json
from dataclasses import fields, replace

import pytest

from cli.config import Config, parsed
from cli.config_settings import SETTINGS
from cli.environment import Environment
from cli.options import Options, help_text, parse
from cli.preferences import Preferences
from cli.talk.commands import COMMANDS, GROUPS
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.engine.sampling import RANGES, Sampling
from dsv4_mlx.errors import UsageError
from tests.cli.test_config import FILE

PLACES = {
    # preference: (key of the configuration, option, command)
    "think": ("thinking", "--think", "think"),
    "system": ("system", "--system", "system"),
    "temperature": ("temperature", "--temp", "temp"),
    "top_p": ("top_p", "--top-p", "top_p"),
    "min_p": ("min_p", "--min-p", "min_p"),
    "top_k": ("top_k", "--top-k", "top_k"),
    "repetition_penalty": ("repetition_penalty", "--repetition-penalty", "penalty"),
    "seed": (None, "--seed", "seed"),  # one for all conversations would make them all alike
    "max_tokens": ("max_tokens", "--max-tokens", "max"),
    "budget": ("budget", "--budget", "budget"),
    "stop": ("stop", "--stop", "stop"),
    "loop": ("loop", "--loop", "loop"),
    "draft": ("draft", "--draft", "draft"),
    "draft_max": ("draft_max", "--draft-max", "draft"),
    "tools": ("tools", "--tools", "tools"),
}
SHOWN_ONLY = {"reasoning"}
"""Commands about answers that change how they look, which no conversation keeps."""

VALUES = {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "top_k": 7, "repetition_penalty": 1.1}


def test_every_preference_has_its_row() -> None:
    assert set(PLACES) == {field.name for field in fields(Preferences)}


@pytest.mark.parametrize("name", list(PLACES))
def test_a_setting_has_a_key_an_option_and_a_command(name: str) -> None:
    key, option, command = PLACES[name]
    known = {setting.key: setting.field for setting in SETTINGS}
    assert key is None or (known[key] == key and hasattr(Config(), key))
    assert f"  {option}" in help_text(Environment()) and hasattr(Options(), name)
    assert command in COMMANDS


def test_no_command_about_answers_is_left_out() -> None:
    rows = {command for _, _, command in PLACES.values()}
    assert {command.name for command in GROUPS["Answers"]} == rows | SHOWN_ONLY


def test_the_ranges_are_those_of_sampling() -> None:
    named = {field.name for field in fields(Sampling)}
    assert set(RANGES) == named - {"seed"} == set(VALUES)
    assert all(getattr(Sampling(), name) in RANGES[name] for name in RANGES)


@pytest.mark.parametrize("name", list(VALUES))
def test_the_command_line_wins_over_the_file_and_the_file_over_the_checkpoint(name: str) -> None:
    checkpoint = ChatSettings("2026-04", 4096, replace(Sampling(), **{name: VALUES[name]}))
    silent = Preferences.configured(Config())
    assert getattr(silent.answer_settings(checkpoint).sampling, name) == VALUES[name]
    lower = replace(Sampling(), **{name: 1})
    written = Preferences.configured(parsed(f"{name} = 1", FILE))
    assert written.answer_settings(checkpoint).sampling == lower
    options = parse([PLACES[name][1], str(VALUES[name])], Environment())
    assert (
        getattr(
            written.given(options).answer_settings(ChatSettings("2026-04", 4096)).sampling, name
        )
        == VALUES[name]
    )


@pytest.mark.parametrize("name", list(VALUES))
def test_a_kept_value_comes_back_and_one_that_does_not_fit_is_left(name: str) -> None:
    saved = replace(Preferences(), **{name: VALUES[name]}).as_record()
    assert getattr(Preferences().kept(saved), name) == VALUES[name]
    for wrong in (-1, "1", True, float("nan"), float("inf"), 10**400, [1]):
        assert getattr(Preferences().kept({name: wrong}), name) is None


def test_stop_texts_come_from_the_file_the_command_line_or_what_was_kept() -> None:
    written = Preferences.configured(parsed('stop = ["END", "\\n\\n"]\nloop = "stop"', FILE))
    assert (written.stop, written.loop) == (("END", "\n\n"), "stop")
    given = parse(["--stop", r"a\n", "--stop", "b", "--loop", "off"], Environment())
    assert (written.given(given).stop, written.given(given).loop) == (("a\n", "b"), "off")
    assert written.given(parse([], Environment())) == written
    kept = json.loads(json.dumps(written.as_record()))
    assert Preferences().kept(kept) == written


@pytest.mark.parametrize("wrong", ["END", [""], [1], None, {"a": 1}, [None], 3, True, [["a"]]])
def test_stop_texts_that_are_none_are_refused_or_left(wrong: object) -> None:
    assert Preferences().kept({"stop": wrong, "loop": wrong}) == Preferences()
    if wrong not in (None, [None]):
        value = "{a = 1}" if isinstance(wrong, dict) else json.dumps(wrong)
        with pytest.raises(UsageError, match=r"stop must be a list of texts that are not empty"):
            parsed(f"stop = {value}", FILE)


def test_drafts_come_from_the_file_the_command_line_or_what_was_kept() -> None:
    written = Preferences.configured(parsed('draft = "lookup"\ndraft_max = 7', FILE))
    assert (written.draft, written.draft_max) == ("lookup", 7)
    given = written.given(parse(["--draft", "off", "--draft-max", "2"], Environment()))
    assert (given.draft, given.draft_max) == ("off", 2)
    assert written.given(parse([], Environment())) == written
    assert Preferences().kept(json.loads(json.dumps(written.as_record()))) == written
    assert Preferences.configured(parsed('draft_max = "auto"', FILE)).draft_max is None
    asked = given.answer_settings(ChatSettings("2026-04", 4096))
    assert (asked.draft, asked.draft_max) == ("off", 2)


@pytest.mark.parametrize("wrong", ["eagle", 0, 8, None, True, 2.5, [1]])
def test_drafts_that_are_none_are_refused_or_left(wrong: object) -> None:
    assert Preferences().kept({"draft": wrong, "draft_max": wrong}) == Preferences()
    if wrong is not None:
        text = json.dumps(wrong)
        with pytest.raises(UsageError, match="draft must be auto, off, mtp, dspark, lookup"):
            parsed(f"draft = {text}", FILE)
        with pytest.raises(UsageError, match="draft_max must be auto or a whole number from 1 to"):
            parsed(f"draft_max = {text}", FILE)
