"""The prompt on a terminal, as a person meets it: typing, streaming, stopping, leaving.

The program behind it (surface_program.py) has no model; what the screen shows is what is tested.
"""

import re
import signal
import stat
from pathlib import Path

import pytest

from tests.terminal.driver import Terminal, surface_program

pytestmark = pytest.mark.terminal

UNCHANGED = b"\x1b[?2026h\x1b[?25l\x1b[?7l\x1b[?7h\x1b[0m\x1b[?25h\x1b[?2026l"
"""A screen drawn again as it was, which a busy machine may see some of."""
STATUS = "think l0 · nano · ▕██▍     ▏ 1,234/4K"


@pytest.fixture
def terminal(borrowed, home: Path) -> Terminal:
    return borrowed("80x24", lambda: surface_program(home, variables={"EDITOR": editor(home)}))


@pytest.fixture
def narrow(borrowed, home: Path) -> Terminal:
    return borrowed("40x12", lambda: surface_program(home, columns=40, lines=12))


def editor(home: Path) -> str:
    """An editor that writes what a file beside it says, and shows what it was given."""
    script = home / "editor"
    script.write_text('#!/bin/sh\necho "editing: $(cat "$1")"\necho "from the editor" > "$1"\n')
    script.chmod(0o700)
    return str(script)


def stop(terminal: Terminal, said: str) -> None:
    terminal.type("\x03")
    terminal.wait_for(said)
    terminal.wait_for_line(">")


# Typing and sending


def test_what_is_sent_moves_above_the_prompt(terminal: Terminal) -> None:
    terminal.type("hello\r")
    terminal.wait_for(f"> hello\nyou said hello\n{STATUS}\n>")
    assert terminal.screen.cursor.x == 2


def test_a_message_of_several_lines(terminal: Terminal) -> None:
    terminal.type("length one\x1b\rtwo")
    terminal.wait_for("> length one\n  two")
    terminal.type("\nthree\r")
    terminal.wait_for("> length one\n  two\n  three\n13 characters, 3 lines")


def test_enter_begins_a_new_line_between_quotes(terminal: Terminal) -> None:
    terminal.type('"""\rfirst\rlast"""')
    terminal.wait_for('> """\n  first\n  last"""')
    terminal.type("\r")
    terminal.wait_for("you said first\nlast\n")


def test_two_thousand_pasted_lines_are_one_chip(terminal: Terminal) -> None:
    terminal.type("length ")
    terminal.paste("\n".join(f"line {number} \x1b[31m" for number in range(2000)))
    terminal.wait_for_line("> length [pasted 2,000 lines]")
    terminal.type("!\x1b[D\x7f")
    terminal.wait_for_line("> length !")
    terminal.type("\x1f")  # undo
    terminal.wait_for_line("> length [pasted 2,000 lines]!")
    terminal.type("\r")
    terminal.wait_for("> length [pasted 2,000 lines]!\n30890 characters, 2000 lines\n")


def test_a_short_paste_is_text_and_is_not_sent(terminal: Terminal) -> None:
    terminal.paste("length one\r\ntwo")
    terminal.wait_for("> length one\n  two")
    terminal.type("\r")
    terminal.wait_for("7 characters, 2 lines")


def test_wide_and_combining_characters_keep_their_columns(terminal: Terminal) -> None:
    terminal.type("你好e\u0301x")
    terminal.wait_for_line("> 你好éx")
    assert terminal.screen.cursor.x == 2 + 2 + 2 + 1 + 1
    terminal.type("\x01\x1b[C\x1b[C\x7f")
    terminal.wait_for_line("> 你éx")
    terminal.type("\x03")
    terminal.wait_for_line(">")


# While it answers


def test_an_answer_streams_above_a_prompt_that_stays(terminal: Terminal) -> None:
    terminal.type("stream word\r")
    terminal.wait_for("word 40 done")
    assert terminal.text.splitlines()[-1] == ">"
    assert "working" in terminal.text.splitlines()[-2]
    stop(terminal, "stopped after")
    lines = [line for line in terminal.whole_text.splitlines() if line.endswith(" done")]
    assert lines == [f"word {10 * number} done" for number in range(1, len(lines) + 1)]
    assert "comes" not in terminal.whole_text


def test_what_is_typed_while_it_answers_is_echoed_and_waits(terminal: Terminal) -> None:
    terminal.type("stream busy\r")
    terminal.wait_for("busy 10 done")
    terminal.type("next one")
    terminal.wait_for_line("> next one")
    terminal.type("\r")
    terminal.wait_for("  queued: next one\n")
    terminal.type("another\r")
    terminal.wait_for("  queued: next one\n  queued: another\n")
    terminal.type("\x1b[A")  # up: taken back
    terminal.wait_for_line("> another")
    assert "queued: another" not in terminal.text
    terminal.type("\x15")  # ctrl-u
    stop(terminal, "you said next one")
    assert "you said another" not in terminal.text


def test_resizing_while_it_streams_leaves_nothing_behind(terminal: Terminal) -> None:
    terminal.type("stream resized\r")
    terminal.wait_for("resized 20 done")
    for columns, lines in ((61, 24), (30, 15), (100, 20), (80, 24)):
        terminal.resize(columns, lines)
        done = terminal.whole_text.count(" done")
        terminal.wait_until(lambda: terminal.whole_text.count(" done") > done, "further line")  # noqa: B023
        terminal.wait_until(lambda: terminal.line == ">", "prompt")
    stop(terminal, "stopped after")
    lines = [line for line in terminal.whole_text.splitlines() if "resized" in line]
    assert lines == ["> stream resized", *(f"resized {10 * n} done" for n in range(1, len(lines)))]
    assert "working" not in terminal.whole_text
    assert terminal.whole_text.count("think l0") == 1


def test_a_tall_live_text_shows_its_last_lines_and_never_scrolls(terminal: Terminal) -> None:
    terminal.type("tall 100\r")
    terminal.wait_for("tall 100\n")
    lines = terminal.text.splitlines()
    assert lines[-3] == "tall 100"
    assert len(lines) == 24
    stop(terminal, "tall is over")
    assert re.findall(r"^tall \d+", terminal.whole_text, re.MULTILINE) == []


def test_nothing_is_written_while_nothing_happens(terminal: Terminal) -> None:
    terminal.type("hold\r")
    terminal.wait_for("working")
    terminal.type("x")
    terminal.wait_for_line("> x")
    written = len(terminal.received)
    terminal.type("y")
    terminal.wait_for_line("> xy")
    echo = terminal.received[written:].replace(UNCHANGED, b"")
    assert len(echo) < 100
    assert b"working" not in echo
    terminal.type("\x15")
    stop(terminal, "released")


# History, completion, editor, modes


def test_ctrl_r_finds_what_was_sent_before(terminal: Terminal) -> None:
    terminal.type("a needle here\r")
    terminal.wait_for("you said a needle here")
    terminal.type("hay\r")
    terminal.wait_for("you said hay")
    terminal.type("\x12needle")
    terminal.wait_for("> a needle here\nI-search backward: needle")
    terminal.type("\r")
    terminal.wait_for_line("> a needle here")
    terminal.type("\r")
    terminal.wait_until(lambda: terminal.text.count("you said a needle") == 2, "second answer")


def test_history_outlives_the_program_and_is_private(home: Path) -> None:
    for _ in range(2):
        with surface_program(home) as terminal:
            terminal.wait_for_line(">")
            if "remembered" in (home / "state" / "history").read_text():
                break
            terminal.type("remembered words\r")
            terminal.wait_for("you said remembered words")
            terminal.type("\x04")
            assert terminal.wait_for_end() == 7
    with surface_program(home) as terminal:
        terminal.wait_for_line(">")
        terminal.type("\x1b[A")
        terminal.wait_for_line("> remembered words")
    assert stat.S_IMODE((home / "state" / "history").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "state").stat().st_mode) == 0o700


def test_commands_are_offered_with_their_help(terminal: Terminal) -> None:
    terminal.type("/un")
    terminal.wait_for("> /un\n  /undo    take the last turn back\n  /unfold  show it")
    terminal.type("d")
    terminal.wait_until(lambda: "/unfold" not in terminal.text, "shorter menu")
    terminal.type("\t")
    terminal.wait_for_line("> /undo")
    terminal.wait_until(lambda: "take the last" not in terminal.text, "closed menu")
    terminal.type("\x15/think h\t")
    terminal.wait_for_line("> /think high")
    terminal.type("\x15")
    terminal.wait_for_line(">")


def test_paths_are_offered_behind_an_at_sign(terminal: Terminal) -> None:
    (terminal.home / "notes").mkdir()
    (terminal.home / "notes" / "to do.txt").write_text("")
    terminal.type("see @no\t")
    terminal.wait_for_line("> see @notes/")
    terminal.type("t\t")
    terminal.wait_for_line('> see @"notes/to do.txt"')
    terminal.type("\x15")
    terminal.wait_for_line(">")


def test_the_editor_gets_the_message_and_gives_it_back(terminal: Terminal) -> None:
    terminal.type("draft\x18\x05")
    terminal.wait_for("editing: draft")
    terminal.wait_for_line("> from the editor")
    terminal.type("\r")
    terminal.wait_for("you said from the editor")


def test_an_editor_that_is_missing_is_one_sentence(home: Path) -> None:
    with surface_program(home, variables={"VISUAL": "/nowhere/ed"}) as terminal:
        terminal.wait_for_line(">")
        terminal.type("draft\x18\x05")
        terminal.wait_for("the editor '/nowhere/ed' does not start: No such file or directory;")
        terminal.wait_for_line("> draft")


def test_shift_tab_and_ctrl_o_work_at_any_time(terminal: Terminal) -> None:
    terminal.type("hold\r")
    terminal.wait_for("working")
    terminal.type("\x0f")
    terminal.wait_for("the reasoning in full")
    stop(terminal, "released")


def test_a_prefilled_message_can_be_changed_and_sent(terminal: Terminal) -> None:
    terminal.type("prefill an old one\r")
    terminal.wait_for_line("> an old one")
    terminal.type("!\r")
    terminal.wait_for("you said an old one!")


# Questions


def test_a_question_takes_one_of_its_keys(terminal: Terminal) -> None:
    terminal.type("ask a new line\r")
    terminal.wait_for("  + a new line", "write the file? (y yes · n no · a always)")
    terminal.type("qA")
    terminal.wait_for("write the file? always\nanswer a\n")


@pytest.mark.parametrize("key", ["\r", "\x1b", "\x03", "\x04"])
def test_leaving_a_question_chooses_its_default(terminal: Terminal, key: str) -> None:
    terminal.type("ask x\r")
    terminal.wait_for("(y yes")
    terminal.type(key)
    terminal.wait_for("write the file? no\nanswer n\n")
    terminal.wait_for_line(">")


# Leaving


def test_ctrl_c_clears_the_line_then_asks_whether_to_leave(home: Path) -> None:
    with surface_program(home) as terminal:
        terminal.wait_for_line(">")
        terminal.type("half a thou\x03")
        terminal.wait_for_line(">")
        terminal.type("\x03")
        terminal.wait_for("Ctrl-C again to leave")
        terminal.type("\x03")
        terminal.wait_for("leave? (y yes · n no)")
        terminal.type("n")
        terminal.wait_for_line(">")
        terminal.type("\x03\x03")
        terminal.wait_for("leave?")
        terminal.type("y")
        assert terminal.wait_for_end() == 7
        assert terminal.text == "saved"


def test_ctrl_d_leaves_while_it_answers_and_the_answer_stops(home: Path) -> None:
    with surface_program(home) as terminal:
        terminal.wait_for_line(">")
        terminal.type("stream leaving\r")
        terminal.wait_for("leaving 10 done")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 7
        assert re.search(r"stopped after \d+\nsaved$", terminal.text)


@pytest.mark.parametrize("busy", [False, True])
def test_sigterm_saves_first(home: Path, busy: bool) -> None:
    with surface_program(home) as terminal:
        terminal.wait_for_line(">")
        if busy:
            terminal.type("stream ended\r")
            terminal.wait_for("ended 10 done")
        terminal.kill(signal.SIGTERM)
        assert terminal.wait_for_end() == 7
        assert terminal.text.endswith("saved")


# The terminal afterwards


def is_restored(terminal: Terminal) -> bool:
    """Bracketed paste off, cursor and wrapping on."""
    return (terminal.modes[2004], terminal.modes[25], terminal.modes[7]) == (False, True, True)


@pytest.mark.parametrize(
    ("command", "status", "last"),
    [
        ("fail\r", 1, "ValueError: the controller failed"),
        ("crash\r", 1, "AttributeError: 'NoneType' object has no attribute 'busy'"),
        ("vanish\r", 9, ""),
        ("\x04", 7, "saved"),
    ],
)
def test_the_terminal_is_restored(home: Path, command: str, status: int, last: str) -> None:
    with surface_program(home) as terminal:
        terminal.wait_for_line(">")
        assert not terminal.is_cooked
        terminal.type(command)
        assert terminal.wait_for_end() == status
        assert last in terminal.text
        assert terminal.modes[2004] is False
        assert (terminal.modes[25], terminal.modes[7]) == (True, True)
        assert terminal.is_cooked


def test_a_kill_leaves_little_to_repair(home: Path) -> None:
    with surface_program(home) as terminal:
        terminal.wait_for_line(">")
        terminal.type("stream killed\r")
        terminal.wait_for("killed 10 done")
        terminal.kill(signal.SIGKILL)
        assert terminal.wait_for_end() == -signal.SIGKILL
        # Shells set the line discipline and bracketed paste themselves; these they do not.
        assert (terminal.modes[25], terminal.modes[7], terminal.modes[2026]) == (True, True, False)
        assert {1049, 1000, 1003} & set(terminal.modes) == set()


# Small and plain


def test_a_narrow_screen_keeps_what_matters(narrow: Terminal) -> None:
    narrow.type("stream thin\r")
    narrow.wait_for("thin 20 done")
    assert narrow.text.splitlines()[-2:] == ["working · think l0 · nano · 1,234/4K", ">"]
    narrow.type("a longer message that has to be wrapped at the edge of the screen")
    narrow.wait_for("> a longer message that has to be wrappe\n  d at the edge of the screen")
    narrow.type("\x15")
    stop(narrow, "stopped after")


def test_a_tiny_screen_can_still_be_used(home: Path) -> None:
    with surface_program(home, columns=20, lines=6) as terminal:
        terminal.wait_for_line(">")
        terminal.type("tall 50\r")
        terminal.wait_for("tall 50")
        terminal.type("/u")
        terminal.wait_for("/undo")
        assert "> /u" in terminal.text
        terminal.type("\x15\x03")
        terminal.wait_for("tall is over")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 7


def test_no_color_means_no_colours(home: Path) -> None:
    with surface_program(home, variables={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for_line(">")
        terminal.type("ask x\r")
        terminal.wait_for("write the file?")
        terminal.type("y")
        terminal.wait_for("answer y")
        terminal.type("\x04")
        terminal.wait_for_end()
    colours = re.findall(rb"\x1b\[([0-9;]*)m", terminal.received)
    assert set(colours) <= {b"0", b""}
