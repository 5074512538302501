"""Conversations that end and go on: whole runs of the program, one after the other.

`Model` answers turn after turn and counts the tokens it reads, so a test sees what was read again.
"""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.kept.sessions import SessionStore
from cli.options import Options
from dsv4_mlx.weights.checkpoint import ModelFolder
from tests.cli.kept_turns import texts
from tests.cli.running import Run, run
from tests.cli.scripted import opening, write_chat_folder
from tests.files.lacking import lacking

ROOT = Path(__file__).parents[3]
LONG = "word " * 300 + "end"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program is started, with a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSV4_HOME", str(tmp_path / "home"))
    return tmp_path


class Model:
    """Says 1. to the first message of a conversation, 2. to the second."""

    def __init__(self) -> None:
        self.read = 0
        """Tokens of all calls, those that were generated included."""

    def __call__(self, folder: ModelFolder, options: Options):
        engine, tokenizer = opening(*(f"</think>{n}." for n in range(1, 9)))(folder, options)
        call = type(engine.model).__call__

        class Counting(type(engine.model)):  # type: ignore[misc]
            def __call__(counting, tokens, cache):
                self.read += tokens.shape[1]
                return call(counting, tokens, cache)

        engine.model.__class__ = Counting
        return engine, tokenizer


def chat(
    folder: Path, *lines: str, options: tuple[str, ...] = (), model: Model | None = None
) -> Run:
    typed = "".join(f"{line}\n" for line in lines)
    return run("--model", folder, *options, typed=typed, open_model=model or Model())


def home() -> Path:
    return Path(os.environ["DSV4_HOME"], "sessions")


def kept(name: str = "") -> list[str]:
    """What was asked in a session, as its file has it."""
    sessions = SessionStore(home(), kv_budget_bytes=0)
    log, saved = sessions.open(sessions.find(name))
    log.close()
    assert saved.notes == ()
    return texts(saved)


def the_file(pattern: str) -> Path:
    (path,) = home().glob(pattern)
    return path


# Resuming


def test_resuming_with_the_cache_reads_what_is_new(folder: Path) -> None:
    chat(folder, LONG, "b")
    model = Model()
    done = chat(folder, "c", options=("--continue",), model=model)
    assert done.stdout == "3.\n"
    assert model.read < 30
    assert kept() == [LONG, "b", "c"]


def test_undo_right_after_resuming_reads_nothing_that_is_kept(folder: Path) -> None:
    chat(folder, LONG, LONG, "c")
    model = Model()
    done = chat(folder, "/undo", "/undo", "d", options=("--continue",), model=model)
    assert done.stdout == "2.\n"
    assert model.read < 30
    assert kept() == [LONG, "d"]


@pytest.mark.parametrize("damage", ["gone", "damaged", "of another model"])
def test_without_a_usable_cache_the_conversation_is_read_again(folder: Path, damage: str) -> None:
    chat(folder, LONG, "b")
    cache = the_file("*.kv")
    match damage:
        case "gone":
            cache.unlink()
        case "damaged":
            cache.write_bytes(b"\x80\x04cos\nsystem\n")
        case "of another model":
            cache.write_text(cache.read_text().replace('"fake"', '"other"'))
    model = Model()
    done = chat(folder, "c", options=("--continue",), model=model)
    assert (done.status, done.stdout) == (0, "3.\n")
    assert model.read > 300
    told = "[the kept cache is not used and the conversation is read again: "
    assert (told in done.stderr) == (damage != "gone")
    assert kept() == [LONG, "b", "c"]
    model = Model()
    chat(folder, "d", options=("--continue",), model=model)
    assert model.read < 30  # the cache was written anew


def test_every_way_back_is_as_it_was_in_the_next_run(folder: Path) -> None:
    lines = ("a", "b", "c", "/undo", "/retry", "d", "/edit 2 e", "f", "/export before.json")
    chat(folder, *lines)
    done = chat(folder, "/export after.json", options=("--continue",))
    assert done.status == 0
    assert Path("before.json").read_bytes() == Path("after.json").read_bytes()
    assert kept() == ["a", "e", "f"]


def test_forks_are_conversations_of_their_own(folder: Path) -> None:
    chat(folder, "a", "/rename trip", "/fork sea", "b", "/branches main", "c")
    chat(folder, "d", options=("--resume", "trip/sea"))
    chat(folder, "e", options=("--resume", "trip"))
    assert kept("trip/sea") == ["a", "b", "d"]
    assert kept("trip") == ["a", "c", "e"]
    sessions = SessionStore(home(), kv_budget_bytes=0)
    assert sessions.find("trip/sea").parent == sessions.find("trip").id


def test_a_conversation_can_be_loaded_saved_and_left_for_another(folder: Path) -> None:
    done = chat(folder, "a", "/save one", "/new", "b", "/save two", "/load one", "c", "/sessions")
    assert done.stdout == "1.\n1.\n2.\n"
    assert "[kept as one]" in done.stderr and "[kept as two]" in done.stderr
    assert (kept("one"), kept("two")) == (["a", "c"], ["b"])
    assert re.search(r"> one  .*  2 turns  .*  a\ntwo  .*  1 turn  .*  b\n", done.stderr)


def once(
    folder: Path, text: str, *options: str, model: Model | None = None, piped: str = ""
) -> Run:
    arguments = ("--model", folder, "-p", text, *options)
    return run(*arguments, piped=piped, open_model=model or Model())


def test_a_single_message_goes_on_with_a_conversation(folder: Path) -> None:
    chat(folder, "/system Be brief.", LONG, "/rename sums")
    model = Model()
    assert once(folder, "b", "--continue", model=model) == Run(0, "2.\n", "")
    assert model.read < 30
    done = once(folder, "c", "--resume", "sums", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["usage"]["cached_tokens"] > 300
    assert kept("sums") == [LONG, "b", "c"]
    done = chat(folder, "/system", options=("--continue",))
    assert "[system message: Be brief.]" in done.stderr


def test_a_single_message_alone_is_kept_nowhere(folder: Path) -> None:
    assert once(folder, "a").status == 0
    assert not home().exists()
    assert once(folder, "b", "--continue") == Run(
        2, "", "dsv4-chat: there is no session to continue; start one without --continue.\n"
    )
    done = once(folder, "b", "--continue", "--no-save")
    assert (done.status, done.stdout) == (2, "")
    assert "choose one of them" in done.stderr


def test_a_single_message_goes_on_without_its_cache(folder: Path) -> None:
    chat(folder, LONG)
    the_file("*.kv").write_bytes(b"damaged")
    done = once(folder, "b", "--continue")
    assert (done.status, done.stdout) == (0, "2.\n")
    assert "[the kept cache is not used and the conversation is read again: " in done.stderr
    assert kept() == [LONG, "b"]


@pytest.mark.parametrize("ending", ["md", "html"])
def test_exports_are_for_reading_and_replaced_only_when_asked(folder: Path, ending: str) -> None:
    file = Path(f"talk.{ending}")
    file.write_text("mine")
    file.chmod(0o640)
    chat(folder, "What <b>?", f"/export {file}", "n")
    assert file.read_text() == "mine"
    chat(folder, f"/export {file}", "y", options=("--continue",))
    text = file.read_text()
    assert "1." in text and ("What <b>?" in text) == (ending == "md")
    chat(folder, f"/export new.{ending}", options=("--continue",))
    assert [Path(one).stat().st_mode & 0o777 for one in (file, f"new.{ending}")] == [0o640, 0o600]


def test_without_a_budget_no_cache_is_written(folder: Path, workplace: Path) -> None:
    (workplace / "home").mkdir()
    (workplace / "home" / "config.toml").write_text('session_budget = "0 GB"\n')
    chat(folder, "a")
    assert once(folder, "b", "--continue").stdout == "2.\n"
    assert kept() == ["a", "b"]
    assert not list(home().glob("*.kv"))


# What goes wrong


def test_a_name_that_is_not_there_is_told_with_what_is_near(folder: Path) -> None:
    chat(folder, "a", "/rename recipes")
    done = chat(folder, options=("--resume", "recipe"))
    assert done == Run(2, "", "dsv4-chat: there is no session 'recipe'; near it: recipes.\n")
    assert chat(folder, "b", options=("--resume", "recipes")).stdout == "2.\n"


def test_a_conversation_that_is_open_elsewhere_is_left_alone(folder: Path) -> None:
    chat(folder, "a")
    sessions = SessionStore(home(), kv_budget_bytes=0)
    log, _ = sessions.open(sessions.newest())
    with log:
        done = chat(folder, "b", options=("--continue",))
    assert (done.status, done.stdout) == (1, "")
    assert "is open, here or in another program; leave it there first." in done.stderr
    assert kept() == ["a"]


def test_a_damaged_file_goes_on_from_before_the_damage(folder: Path) -> None:
    chat(folder, "a", "b", "c")
    file = the_file("*.jsonl")
    damaged = file.read_bytes().replace(b'"text": "c"', b'"text": "x"')
    file.write_bytes(damaged)
    done = chat(folder, "d", options=("--continue",))
    assert (done.status, done.stdout) == (0, "3.\n")
    assert "is damaged; all before it is here" in done.stderr
    assert kept() == ["a", "b", "d"]
    assert the_file("*.damaged").read_bytes() == damaged


def test_a_full_disk_stops_the_keeping_and_not_the_talk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, writes = os.pwrite, []

    def full_for_a_while(descriptor: int, content: bytes, place: int) -> int:
        writes.append(place)
        if 3 <= len(writes) <= 5:
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, content, place)

    monkeypatch.setattr(os, "pwrite", full_for_a_while)
    done = chat(folder, "a", "b", "c")
    assert (done.status, done.stdout) == (0, "1.\n2.\n3.\n")
    assert done.stderr.count("cannot be written: No space left on device") == 1
    assert kept() == ["a", "b", "c"]


def test_what_a_file_says_never_reaches_the_terminal_as_it_is(folder: Path) -> None:
    evil = "evil \x1b]0;owned\x07 \x9b2J \u202e"
    chat(folder, evil)
    done = chat(folder, "/sessions", "/undo", options=("--continue",))
    assert "evil" in done.stderr
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(done.stdout + done.stderr)


TALKER = """
import sys
from tests.cli.running import run

run("--engine", f"fake:{sys.argv[1]}", typed="first\\nsecond\\n")
"""


def test_a_kill_in_an_answer_loses_the_answer_alone(workplace: Path) -> None:
    script = workplace / "script.json"
    replies = ["One.", {"text": "never done ", "repeat": 10_000, "delay_ms": 5}]
    script.write_text(json.dumps({"replies": replies}))
    talker = subprocess.Popen(
        [sys.executable, "-c", TALKER, script], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    asked_twice = b'"text": "second"'
    while not any(asked_twice in path.read_bytes() for path in home().glob("*.jsonl")):
        assert talker.poll() is None
        os.sched_yield()
    talker.send_signal(signal.SIGKILL)
    talker.wait()
    done = run("--engine", f"fake:{script}", "--continue", typed="/undo\n")
    assert "1 turn]" in done.stderr
    assert "[the last message had no answer yet; it is in the input again]" in done.stderr
    assert "second" in done.stderr
    assert "took back: first" in done.stderr


@pytest.mark.slow
def test_the_embedded_model_goes_on_as_if_never_left(workplace: Path) -> None:
    options = ("--think", "none", "--temp", "0", "--max-tokens", "30")
    lines = ("What is nano?\n", "How do I undo?\n", "/undo\n", "How do I leave?\n")
    whole = run(*options, "--no-save", typed="".join(lines)).stdout.splitlines(keepends=True)
    first = run(*options, typed="".join(lines[:2])).stdout
    second = run(*options, "--continue", typed="".join(lines[2:])).stdout
    assert first.splitlines(keepends=True) == whole[: len(first.splitlines())]
    assert first + second == "".join(whole)
    assert the_file("*.kv").stat().st_mode & 0o777 == 0o600


def test_an_export_says_once_what_its_disk_lacks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat(folder, "a")
    lacking(monkeypatch, "rename over a file", errno.EEXIST)
    Path("talk.md").write_text("mine")
    lines = ("/export talk.md", "y", "/export talk.md", "y")
    done = chat(folder, *lines, options=("--continue",))
    assert "1." in Path("talk.md").read_text()
    assert done.stderr.count("does not put one file in the place of another") == 1


def test_a_file_that_tells_no_time_is_listed_without_one(folder: Path) -> None:
    chat(folder, "a")
    (home() / "notes.jsonl").write_text("hello\n")
    listed = chat(folder, "/sessions").stderr
    assert "notes  " in listed and "0001-" not in listed and " 1-01-01" not in listed
    assert "is no session that can be read" in listed
