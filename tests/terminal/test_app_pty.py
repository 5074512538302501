"""The whole chat program on a terminal, with a scripted model: what a person sees and can do."""

import re
from pathlib import Path

import pytest

from tests.terminal.driver import Terminal, chat
from tests.terminal.steps import idle, leave, send

pytestmark = pytest.mark.terminal

MARKDOWN = """\
<think>A question about colours.

Rayleigh, then.</think># The sky

It is **blue**, because of `scattering`:

| wave | 长度 |
|---|---|
| 蓝 blue | 450 nm |
| red | 700 nm |

```python
def sky():
    return "blue"
```
"""
TALK = {
    "context": 65_536,
    "effort_table": "2026-04",
    "replies": [
        MARKDOWN,
        {"text": "one word after the other " * 6 + "\n\n", "repeat": 1_000, "delay_ms": 1},
        ["First luck.", "Second luck."],
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("talk")


@pytest.fixture
def talk(borrowed, folder: Path) -> Terminal:
    terminal = borrowed("talk", lambda: chat(folder, TALK))
    terminal.type("/new\r")
    terminal.wait_for("[new conversation]")
    return terminal


# An answer on the screen


def test_reasoning_folds_and_markdown_is_drawn(talk: Terminal) -> None:
    send(talk, "why is the sky blue?", "thought for ")
    screen = talk.text
    assert "It is blue, because of `scattering`:" in screen
    assert "Rayleigh" not in screen
    assert re.search(r"thought for \d.* s · \d+ tokens\n", screen)
    columns = [line.index("nm") for line in screen.splitlines() if " nm" in line]
    assert len(columns) == 2
    assert re.search(r"think high · .* [\d,]+/64K · [\d.,]+ tok/s · first [\d.]+ s", screen)
    talk.type("\x0f")  # Ctrl-O
    talk.wait_for("A question about colours.\n\nRayleigh, then.")


def test_wide_characters_keep_a_table_straight(talk: Terminal) -> None:
    send(talk, "table", "450 nm", "700 nm")
    talk.wait_for("蓝 blue")
    row = next(y for y, line in enumerate(talk.screen.display) if "450 nm" in line)
    below = next(y for y, line in enumerate(talk.screen.display) if "700 nm" in line)

    def column(y: int) -> int:
        return next(
            x
            for x in range(80)
            if talk.screen.buffer[y][x].data == "4" or talk.screen.buffer[y][x].data == "7"
        )

    assert column(row) == column(below)


def test_ctrl_c_stops_the_answer_and_keeps_the_turn(talk: Terminal) -> None:
    send(talk, "first", "return")
    talk.type("go on\r")
    talk.wait_for("one word after the other one word")
    talk.type("\x03")
    talk.wait_for("[stopped]")
    idle(talk)
    send(talk, "and now?", " luck.")  # the third reply: the second turn was kept
    talk.type("/context\r")
    talk.wait_for("> /context")
    idle(talk)


def test_typing_ahead_is_echoed_while_it_answers(talk: Terminal) -> None:
    send(talk, "first", "return")
    talk.type("go on\r")
    talk.wait_for("one word after the other")
    talk.type("and then")
    talk.wait_for_line("> and then")
    talk.type("\r")
    talk.wait_for("  queued: and then")
    talk.type("\x03")
    talk.wait_for("> and then", " luck.")
    idle(talk)


def test_resizing_while_it_streams(talk: Terminal) -> None:
    send(talk, "first", "return")
    talk.type("go on\r")
    talk.wait_for("one word after the other")
    for columns, lines in ((50, 20), (33, 12), (90, 24), (80, 24)):
        talk.resize(columns, lines)
        talk.wait_until(lambda: talk.line == ">", "prompt")
        seen = len(talk.received)
        talk.wait_until(lambda: len(talk.received) > seen + 500, "more of the answer")  # noqa: B023
    talk.type("\x03")
    talk.wait_for("[stopped]")
    idle(talk)
    last = talk.whole_text.rpartition("> go on\n")[2]
    # What is finished the terminal itself wraps anew, in the middle of words.
    said = "".join(last.partition("[stopped]")[0].split())
    assert len(said) > 200
    assert ("onewordaftertheother" * len(said)).startswith(said)
    assert last.count("think high") == 1


def test_a_long_prompt_shows_a_bar(own) -> None:
    terminal = own("Read.", script={"prefill_ms": 20, "chunk": 256})
    terminal.paste("\n".join(f"line {number} of many" for number in range(2000)))
    terminal.wait_for_line("> [pasted 2,000 lines]")
    terminal.type("\r")
    terminal.wait_for("> [pasted 2,000 lines]")
    terminal.wait_for("reading ", " of ", "tokens/s", "left")
    terminal.wait_for("Read.")
    idle(terminal)
    assert "reading " not in terminal.whole_text


def test_reasoning_ends_at_its_budget(own) -> None:
    terminal = own({"text": "<think>hm and hm ", "repeat": 500}, arguments=("--budget", "30"))
    terminal.type("think\r")
    terminal.wait_for("thought for", "budget")
    idle(terminal)


def test_an_engine_error_is_one_sentence_and_the_talk_goes_on(own) -> None:
    goes_on_after({"error": "The engine ran out of memory."}, "The engine ran out of memory.", own)


def goes_on_after(failure: dict[str, str], sentence: str, own) -> None:
    """A reply that fails half-way is told once, with `sentence`, and comes at the second try."""
    terminal = own({"text": "half an"} | failure, "Better.")
    send(terminal, "go", f"dsv4-chat: {sentence}")
    assert "Traceback" not in terminal.whole_text
    assert terminal.whole_text.count("half an") == 1
    terminal.type("again\r")  # the failed turn is no turn, so the same reply comes once more
    terminal.wait_until(lambda: terminal.whole_text.count("half an") == 2, "an answer")
    idle(terminal)
    assert terminal.whole_text.count("dsv4-chat: ") == 1
    leave(terminal)


# Going back; what the commands do tests/cli/talk and tests/cli/kept say without a terminal


@pytest.mark.slow
def test_undo_gives_the_message_back_and_retry_tries_other_luck(own) -> None:
    terminal = own(["First luck.", "Second luck.", "Third luck."], arguments=("--seed", "1"))
    send(terminal, "try", " luck.")
    for answers in (2, 3):
        terminal.type("/retry\r")
        terminal.wait_until(lambda: terminal.text.count(" luck.") == answers, "answer")  # noqa: B023
        idle(terminal)
    terminal.type("/undo\r")
    terminal.wait_for("[took back: try]")
    terminal.wait_for_line("> try")
    terminal.type(" again\r")
    terminal.wait_until(lambda: terminal.text.count(" luck.") == 4, "answer")
    leave(terminal)


@pytest.mark.slow
def test_edit_takes_an_earlier_message_up_again(own) -> None:
    terminal = own("Answer one.", "Answer two.")
    send(terminal, "question one", "Answer one.")
    send(terminal, "question two", "Answer two.")
    terminal.type("/edit 1\r")
    terminal.wait_for_line("> question one")
    terminal.type(", changed\r")
    terminal.wait_for("> question one, changed\n\nAnswer one.")
    idle(terminal)
    terminal.type("question three\r")
    terminal.wait_for("> question three\n\nAnswer two.")
    leave(terminal)


@pytest.mark.slow
def test_a_fork_goes_on_beside_its_parent(own) -> None:
    terminal = own("Answer one.", "Answer two.")
    send(terminal, "question", "Answer one.")
    send(terminal, "/fork idea", "[on branch idea; /branches main goes back]")
    send(terminal, "aside", "Answer two.")
    terminal.type("/branches ma\t\r")
    terminal.wait_for("* main  1 turn", "  idea  2 turns")
    leave(terminal)


# Files, commands and tools


def test_files_go_along_and_binaries_do_not(own, tmp_path: Path) -> None:
    terminal = own("Seen.")
    (tmp_path / "notes.txt").write_text("remember the milk\n")
    (tmp_path / "data.bin").write_bytes(b"\0\1\2")
    terminal.type("read @not\t")
    terminal.wait_for_line("> read @notes.txt")
    terminal.type("\r")
    terminal.wait_for("attached notes.txt (17 B, ", " tokens)", "Seen.")
    idle(terminal)
    send(terminal, "read @data.bin", "data.bin is a binary file; only text can be attached.")
    leave(terminal)


def test_a_command_runs_after_a_yes(own) -> None:
    terminal = own("Seen.")
    terminal.type("!echo hello from $0\r")
    terminal.wait_for("  $ echo hello from $0", "run this command? (y yes · n no)")
    terminal.type("n")
    terminal.wait_for("[not run]")
    idle(terminal)
    terminal.type("!echo hello from $0\r")
    terminal.wait_until(lambda: terminal.line.startswith("run this command?"), "question")
    terminal.type("y")
    terminal.wait_for("hello from /bin/sh", "[the output goes along with your next message]")
    idle(terminal)
    leave(terminal)


def test_a_tool_asks_and_shows_what_it_would_do(own, tmp_path: Path) -> None:
    write = {"name": "write_file", "arguments": {"path": "out.txt", "content": "secret plan\n"}}
    calls = {"text": "I write it down.", "tool_calls": [write]}
    terminal = own(calls, "Done.", calls, "Done again.", arguments=("--tools",))
    terminal.type("please\r")
    terminal.wait_for("write_file", "secret plan", "(y yes · n no · a always")
    terminal.type("n")
    terminal.wait_for("Done.")
    idle(terminal)
    assert not (tmp_path / "out.txt").exists()
    terminal.type("please\r")
    terminal.wait_until(lambda: "(y yes" in terminal.text, "question")
    terminal.type("y")
    terminal.wait_for("Done again.")
    idle(terminal)
    assert (tmp_path / "out.txt").read_text() == "secret plan\n"
    leave(terminal)


# Other terminals


def test_a_narrow_screen_holds_an_answer(own) -> None:
    terminal = own(MARKDOWN, columns=40, lines=12)
    send(terminal, "why?", "return")
    assert all(len(line) <= 40 for line in terminal.whole_text.splitlines())
    assert "The sky" in terminal.whole_text
    leave(terminal)


def test_no_color_has_no_colours_and_dumb_has_no_codes(own) -> None:
    terminal = own(MARKDOWN, variables={"NO_COLOR": "1"})
    send(terminal, "why?", "return")
    leave(terminal)
    styles = set(re.findall(rb"\x1b\[([0-9;]*)m", terminal.received))
    assert not {style for style in styles if re.search(rb"(^|;)([349][0-7]|10[0-7])", style)}
    dumb = own(MARKDOWN, variables={"TERM": "dumb"})
    dumb.type("why?\r")
    dumb.wait_for('return "blue"', "```\n>")
    leave(dumb)
    assert b"\x1b" not in dumb.received


def test_hostile_text_stays_text(own, tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b31m\x1b]52;c;b3duZWQ=\x07 \u202eend"
    (tmp_path / "bad\x1b]0;owned\x07.txt").write_text(hostile)
    terminal = own(f"<think>{hostile}</think>{hostile}\n\n`{hostile}` [x](http://a{hostile})")
    send(terminal, "@bad*", "end")
    terminal.type("\x0f")
    idle(terminal)
    leave(terminal)
    assert terminal.screen.title == ""
    for code in (b"\x1b]0", b"\x1b]52", b"\x1b[2J", b"\xc2\x9b", "\u202e".encode()):
        assert code not in terminal.received


def test_shift_tab_changes_the_thinking_level(talk: Terminal) -> None:
    levels = []
    for _ in range(4):
        before = talk.text.splitlines()[-2]
        levels.append(before.split()[1])
        talk.type("\x1b[Z")
        talk.wait_until(lambda: talk.text.splitlines()[-2] != before, "other level")  # noqa: B023
    assert len(set(levels)) > 1
    talk.type("/think high\r")
    talk.wait_for("thinking level high")
    idle(talk)
