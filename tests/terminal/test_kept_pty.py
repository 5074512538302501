"""What a person sees when the place where conversations are kept is odd, goes away or is full."""

import itertools
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.kept_turns import Clock, begun, store
from tests.terminal.driver import Terminal, chat

pytestmark = pytest.mark.terminal

TALK = {"context": 65_536, "replies": ["First.", "Second.", "Third.", "Fourth."]}
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def talk(borrowed, folder: Path) -> Iterator[Terminal]:
    """One program for scenarios that begin with a new conversation and leave its home whole."""
    variables = {"DSV4_HOME": str(folder / "state")}
    terminal = borrowed("kept", lambda: chat(folder, TALK, "--think", "none", variables=variables))
    terminal.type("/new\r")
    terminal.wait_for("[new conversation]")
    yield terminal


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """`own(**variables)`: a program of this scenario alone, at its prompt."""
    running: list[Terminal] = []

    def start(*arguments: str, **variables: str) -> Terminal:
        running.append(chat(tmp_path, TALK, "--think", "none", *arguments, variables=variables))
        return running[-1]

    yield start
    for terminal in running:
        terminal.__exit__()


def send(terminal: Terminal, text: str, *answer: str) -> None:
    """Send and wait for `answer`, and until all that belongs to it is kept."""
    terminal.type(f"{text}\r")
    terminal.wait_for(f"> {text}", *answer)
    settle(terminal)


def settle(terminal: Terminal) -> None:
    """Until another command is carried out, which waits for all before it."""
    before = rows(terminal).count("of 65,536 tokens;")
    terminal.type("/context\r")
    terminal.wait_until(lambda: rows(terminal).count("of 65,536 tokens;") > before, "the context")


def rows(terminal: Terminal) -> str:
    """The screen as one line of words, since sentences may be wrapped."""
    return " ".join(terminal.whole_text.split())


def wait_for_words(terminal: Terminal, words: str) -> None:
    """Until `words` are there, wherever lines break."""
    squeezed = words.replace(" ", "")
    terminal.wait_until(lambda: squeezed in rows(terminal).replace(" ", ""), words)


def said(path: Path) -> list[str]:
    """Who said what in a session's file."""
    found: list[str] = []
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if entry["type"] == "turn":
            found = [*found[: 2 * entry["keep"]]]
            found += [message["content"] for message in entry["turn"]["messages"]]
    return found


def sessions(home: Path) -> list[Path]:
    return sorted((home / "sessions").glob("*.jsonl"))


# One running program


def test_a_removed_folder_is_written_again_and_told_once(talk: Terminal, folder: Path) -> None:
    send(talk, "one", "First.")
    shutil.rmtree(folder / "state")
    send(talk, "two", "Second.")
    wait_for_words(talk, "was removed; the conversation is written there again.")
    send(talk, "three", "Third.")
    (path,) = sessions(folder / "state")
    assert said(path) == ["one", "First.", "two", "Second.", "three", "Third."]
    assert rows(talk).count("was removed") == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_another_program_changed_is_left_and_the_talk_goes_on(
    talk: Terminal, folder: Path
) -> None:
    send(talk, "one", "First.")
    path = sessions(folder / "state")[-1]
    with open(path, "ab") as file:
        file.write(b"another program\n")
    content = path.read_bytes()
    send(talk, "two", "Second.")
    wait_for_words(talk, "was changed by another program; the conversation goes on as")
    assert path.read_bytes() == content
    assert said(sessions(folder / "state")[-1]) == ["one", "First.", "two", "Second."]


def test_a_place_that_cannot_be_written_is_told_once_until_it_can(
    talk: Terminal, folder: Path
) -> None:
    state, elsewhere = folder / "state", folder / f"old-{next(_NUMBERS)}"
    send(talk, "one", "First.")
    state.rename(elsewhere)
    state.write_text("a file is in the way")
    send(talk, "two", "Second.")
    wait_for_words(talk, "is not kept until that changes.")
    told = rows(talk).count("not kept until")
    send(talk, "three", "Third.")
    assert rows(talk).count("not kept until") == told
    state.unlink()
    send(talk, "four", "Fourth.")
    (path,) = sessions(state)
    assert said(path) == [
        *("one", "First.", "two", "Second."),
        *("three", "Third.", "four", "Fourth."),
    ]


def test_an_export_follows_the_tilde_and_keeps_the_mode_of_what_it_replaces(
    talk: Terminal, folder: Path
) -> None:
    file = folder / "notes.md"
    file.write_text("old")
    file.chmod(0o664)
    send(talk, "one", "First.")
    talk.type("/export ~/notes.md\r")
    talk.wait_for("replace it?")
    talk.type("y")
    wait_for_words(talk, f"[wrote {file}]")
    assert "First." in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o664


def test_the_home_of_nobody_is_a_sentence(talk: Terminal) -> None:
    send(talk, "/export ~nobody-of-this-name/a.md", "~nobody-of-this-name")
    wait_for_words(talk, "begins with the home folder of a user, and there is none")
    send(talk, "/model ~nobody-of-this-name/a")
    send(talk, "still here?", "First.")


# A running program whose home has everything odd about it

DAMAGE = (b"[" * 100_000, b"\xff\xfe\0" * 999, b'{"a": 1e999}', b'"\\ud800"')


@pytest.fixture
def odd(borrowed, folder: Path) -> Terminal:
    """Its home is shared with a group, its history damaged, its editor one of another system."""
    home = folder / "shared"

    def start() -> Terminal:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        home.chmod(0o2775)
        (home / "history").write_bytes(b"\n".join((b'"said before"', *DAMAGE, b"")))
        (folder / "saved").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
        variables = {"DSV4_HOME": "~/shared", "EDITOR": f"cp {folder / 'saved'}"}
        return chat(folder, TALK, "--think", "none", variables=variables)

    terminal = borrowed("odd", start)
    terminal.type("/new\r")
    terminal.wait_for("[new conversation]")
    return terminal


def test_a_folder_that_others_share_stays_as_it_is(odd: Terminal, folder: Path) -> None:
    send(odd, "one", "First.")
    home = folder / "shared"
    assert stat.S_IMODE(home.stat().st_mode) == 0o2775
    assert stat.S_IMODE((home / "sessions").stat().st_mode) & 0o777 == 0o700
    assert stat.S_IMODE((home / "history").stat().st_mode) == 0o600


def test_a_damaged_history_is_set_aside_and_stops_no_start(odd: Terminal, folder: Path) -> None:
    send(odd, "one", "First.")
    home = folder / "shared"
    assert (home / "history").read_bytes().startswith(b'"said before"\n')
    assert b"[[[" not in (home / "history").read_bytes()
    assert all(line in (home / "history.damaged").read_bytes() for line in DAMAGE)


def test_an_editor_that_writes_as_other_systems_do_changes_no_character(
    odd: Terminal, folder: Path
) -> None:
    odd.type("\x18\x05")  # Ctrl-X Ctrl-E
    odd.wait_for("> one\n  two")
    odd.type("\r")
    odd.wait_for("First.")
    settle(odd)
    text = sessions(folder / "shared")[-1].read_text()
    assert '"text": "one\\ntwo"' in text


# Programs of their own


def test_without_any_home_it_talks_and_says_what_is_not_kept(
    own: Callable[..., Terminal], tmp_path: Path
) -> None:
    with own(DSV4_HOME="~nobody-of-this-name/state") as terminal:
        terminal.wait_for_line(">")
        wait_for_words(terminal, "[nothing of this run is kept: DSV4_HOME: ~nobody")
        send(terminal, "one", "First.")
        send(terminal, "two", "Second.")
        assert rows(terminal).count("nothing of this run is kept") == 1
        terminal.type("\x1b[A\x1b[A")
        terminal.wait_for_line("> two")
    assert not [path for path in tmp_path.rglob("*") if path.name in ("sessions", "history")]


def test_the_newest_goes_on_whatever_the_files_say_of_their_time(
    own: Callable[..., Terminal], tmp_path: Path
) -> None:
    kept = store(tmp_path / "state", clock=Clock())
    with begun(kept, "of yesterday") as yesterday, begun(kept, "of today") as today:
        os.utime(yesterday.path, (1_900_000_000, 1_900_000_000))
    with own("--continue", DSV4_HOME=str(tmp_path / "state")) as terminal:
        terminal.wait_for_line(">")
        send(terminal, "and now?", "Second.")
    assert said(today.path)[::2] == ["of today", "and now?"]
