"""Paths however they are written, in every subcommand: the right place, or a sentence."""

import os
import shutil
import sys
from json import loads
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from convert.app import main
from convert.fetch import fetch
from convert.progress import ProgressDisplay
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.paths import printable, user_path
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE
from tests.convert.small import SMALL, contents
from tests.convert.test_fetch import FolderHub
from tests.examples import examples

ODD_BYTES = pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("release"), SMALL)


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("converted") / "out"
    assert main([str(release), str(folder)]) == 0
    return contents(folder)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder; the working folder is beside it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


LETTERS = st.sampled_from(
    ["a", "Z", " ", "é", "模", "\n", "\x1b", "'", "~", "-", "\udcff", "\udc80"]
)
NAMES = st.text(LETTERS, min_size=1, max_size=8).filter(lambda name: not name.startswith("-"))
PLACES = st.sampled_from(["", "./", "~/", "../home/", "{home}/", "{home}/../home/"])


@ODD_BYTES
@examples(8, slow=20, suppress_health_check=list(HealthCheck))
@given(place=PLACES, name=NAMES, end=st.sampled_from(["", "/"]))
@pytest.mark.usefixtures("home")
def test_every_spelling_leads_to_its_place(place, name, end, release, converted, home, capsys):
    written = f"{place.format(home=home)}{name}{end}"
    literal = place == "" and name.startswith("~")
    right = (Path.cwd() if place in ("", "./") else home) / name
    if literal and (name == "~" or "/" in name):
        return  # the home folder itself
    try:
        status = main([str(release), written])
        if literal:  # there is no such user, so a slip is refused
            assert status == 2 and "there is none for" in capsys.readouterr().err
            return
        assert status == 0, capsys.readouterr().err
        assert contents(right) == converted
        assert main(["inspect", written]) == 0
        assert main(["inspect", written, "--json"]) == 0
        assert main(["verify", written, "--against", str(release), "--json"]) == 0
        said = capsys.readouterr()
        said.out.encode()
        assert "\x1b" not in said.err + said.out
    finally:
        shutil.rmtree(right, ignore_errors=True)


COMMANDS = {
    "SRC": ["{path}", "new"],
    "dry run": ["{path}", "new", "--dry-run"],
    "--recipe": ["{release}", "new", "--recipe={path}"],
    "--importance": ["{release}", "new", "--recipe", "q4", "--importance={path}"],
    "verify": ["verify", "{path}"],
    "verify --against": ["verify", "{out}", "--against={path}"],
    "verify --text": ["verify", "{out}", "--level", "behaviour", "--text={path}"],
    "inspect": ["inspect", "{path}"],
    "calibrate SRC": ["calibrate", "{path}", "text"],
    "calibrate TEXT": ["calibrate", "{release}", "{path}"],
    "calibrate -o": ["calibrate", "{release}", "{text}", "-o", "{path}/a.safetensors"],
}


@ODD_BYTES
@pytest.mark.parametrize("json", [False, True], ids=["lines", "json"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_of_other_bytes_in_the_home_that_is_not_there_is_named(
    command, json, release, home, capsys
):
    """One sentence, with the home folder in the place of the tilde and odd bytes as escapes."""
    assert main([str(release), "out"]) == 0
    Path("text").write_text("a text of a few words\n")
    capsys.readouterr()
    ending = ".toml" if command == "--recipe" else ""
    places = {"path": f"~/no\udcff{ending}", "release": release, "out": "out", "text": "text"}
    words = [word.format(**places) for word in COMMANDS[command]]
    assert main(words + ["--json"] * json) in (1, 2)
    said = capsys.readouterr()
    last = (said.out if json else said.err).splitlines()[-1]
    sentence = printable(loads(last)["text"]) if json else last
    assert str(home / "no\\xff") in sentence, sentence
    assert not Path("~").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_home_of_nobody_is_refused_in_a_sentence(command, release, home, capsys):
    places = {"path": "~nobody-here/x.toml", "release": release, "out": "out", "text": "text"}
    assert main([word.format(**places) for word in COMMANDS[command]]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ~nobody-here/x.toml")
    assert "begins with the home folder of a user, and there is none" in error


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_path_is_not_the_working_folder(command, release, home, capsys):
    if "{path}/" in " ".join(COMMANDS[command]):
        return
    places = {"path": "", "release": release, "out": "out", "text": "text"}
    assert main([word.format(**places) for word in COMMANDS[command]]) in (1, 2)
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: A path is empty")


def test_files_in_the_home_are_read(release, home, converted, capsys):
    (home / "own.toml").write_text('[[matrices]]\nmatch = ["lm_head"]\nbits = 8\ngroup_size = 64\n')
    (home / "text").write_text("some words that are measured. " * 9)
    shutil.copytree(release, home / "m")
    assert main(["calibrate", "~/m", "~/text", "-o", "~/i.safetensors"]) == 0
    words = ["~/m", "~/out", "--recipe=~/own.toml", "--importance=~/i.safetensors"]
    assert main(words) == 0
    assert (home / "out" / CONVERSION_FILE).is_file() and not Path("~").exists()
    assert main(["verify", "~/out", "--against=~/m"]) == 0


@ODD_BYTES
def test_all_of_a_model_in_a_place_of_other_bytes(release, home, capsys):
    """Calibrated, converted with a recipe, compared and fetched: names of any bytes throughout."""
    odd = home / "other-\udcff"
    odd.mkdir()
    shutil.copytree(release, odd / "m")
    (odd / "m" / "encoding").mkdir()
    (odd / "m" / "encoding" / "note-\udcff.txt").write_text("kept")
    (odd / "own-\udcff.toml").write_text(
        '[[matrices]]\nmatch = ["lm_head"]\nbits = 8\ngroup_size = 64\n'
    )
    (odd / "text-\udcff").write_text("some words that are measured. " * 9)
    weights = str(odd / "i-\udcff.safetensors")
    assert main(["calibrate", str(odd / "m"), str(odd / "text-\udcff"), "-o", weights]) == 0
    recipe = str(odd / "own-\udcff.toml")
    words = [str(odd / "m"), str(odd / "out"), "--recipe", recipe, "--importance", weights]
    assert main(words) == 0, capsys.readouterr().err
    assert (
        main(["verify", str(odd / "out"), "--level", "numeric", "--against", str(odd / "m")]) == 0
    )
    compare = ["--level", "behaviour", "--text", str(odd / "text-\udcff")]
    assert main(["verify", str(odd / "out"), "--against", str(odd / "m"), *compare]) == 0
    assert "text-\\xff" in (odd / "out" / "CARD.md").read_text()
    assert (odd / "out" / "encoding" / "note-\udcff.txt").read_text() == "kept"
    fetch("somebody/V4", odd / "got", ProgressDisplay(), FolderHub(release))
    assert contents(odd / "got").items() >= contents(release).items()


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("~", "{home}"),
        ("~/a", "{home}/a"),
        ("~/a/../b", "{home}/a/../b"),
        ("a/~", "a/~"),
        ("a~", "a~"),
        ("./~", "{work}/~"),
        ("./~/a", "{work}/~/a"),
        ("~there", "{work}/~there"),
        ("/~", "/~"),
    ],
)
def test_only_a_tilde_in_front_is_the_home(written, right, home):
    Path("~there").mkdir()
    places = {"home": home, "work": os.getcwd()}
    found = user_path(written)
    assert str(found) == right.format(**places)
    assert user_path(found) == found


def test_without_a_home_folder_a_tilde_is_refused(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: (_ for _ in ()).throw(KeyError(number)))
    with pytest.raises(UsageError, match=r"write \./~/m for a folder of that name"):
        user_path("~/m")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a b é 模", "a b é 模"), ("a\nb", "a\\nb"), ("\x1b[2J", "\\x1b[2J"), ("\udcff", "\\xff"),
     ("\u202e", "\\u202e"), ("\ud800", "\\ud800")],
)  # fmt: skip
def test_what_is_no_visible_character_is_an_escape(text, shown):
    assert printable(text) == shown
