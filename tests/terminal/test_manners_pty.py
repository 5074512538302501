"""What makes the prompt pleasant, on a terminal: copying code, and what else a person looks for."""

import base64
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.talk.welcome import HINT, WELCOME
from cli.tools.background import processes
from tests.terminal.driver import Terminal, chat
from tests.terminal.steps import send

pytestmark = pytest.mark.terminal

CODE = """\
<think>Two ways.</think>Compile it:

```make
all:
\tcc -o sky sky.c
```

1. or run it

   ```python
   print("sky")
   ```
"""
SCRIPT = {"context": 65_536, "effort_table": "2026-04", "replies": [CODE, "No code here."]}
_COPIED = re.compile(rb"\x1b\]52;c;([A-Za-z0-9+/=]*)\x07")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manners")


@pytest.fixture
def shared(borrowed: Callable[..., Terminal], folder: Path) -> Terminal:
    """A program at a new conversation."""
    terminal = borrowed("manners", lambda: chat(folder, SCRIPT))
    terminal.type("/new\r")
    terminal.wait_for("[new conversation]")
    return terminal


def copied(terminal: Terminal) -> str:
    """What was last put into the clipboard."""
    return base64.b64decode(_COPIED.findall(terminal.received)[-1]).decode()


def test_code_goes_into_the_clipboard_as_it_is(shared: Terminal) -> None:
    send(shared, "how is it built?", "or run it")
    send(shared, "/copy code", "code block 2 of 2, python, 1 line: sent to the terminal")
    assert copied(shared) == 'print("sky")'
    send(shared, "/copy code 1", "code block 1 of 2, make, 2 lines: sent")
    assert copied(shared) == "all:\n\tcc -o sky sky.c"
    send(shared, "/copy code 3", "there is no code block 3; the last answer has 2.")
    send(shared, "and now?", "No code here.")
    send(shared, "/copy code", "the last answer has no code block")
    assert copied(shared) == "all:\n\tcc -o sky sky.c"


COMPACT = {
    "context": 65_536,
    "effort_table": "2026-04",
    "replies": [
        {"text": "<think>hm</think>one two ", "repeat": 80},
        {"text": "They counted words. ", "repeat": 12, "delay_ms": 5},
        "Third.",
        "On we go.",
    ],
}


def test_a_conversation_is_compacted_and_the_original_stays(tmp_path: Path) -> None:
    with chat(tmp_path, COMPACT, "--think", "none") as terminal:
        terminal.wait_for_line(">")
        for text in ("count", "again", "and then?"):
            send(terminal, text)
        terminal.type("/compact\r")
        terminal.wait_for("[summarising 1 of 3 turns]\n\nThey counted words. They")
        terminal.type("\x03")
        terminal.wait_for("stopped; nothing was changed.")
        send(terminal, "/branches", "* main  3 turns  and then?")
        terminal.type("\x0c")
        send(terminal, "/compact the number of words", "a summary stands for 1 turn")
        send(terminal, "what now?", "On we go.")
        send(
            terminal, "/branches main", "* main  3 turns  and then?", "compact  4 turns  what now?"
        )
        send(terminal, "and here?", "On we go.")


def test_what_was_said_is_found_and_opened(shared: Terminal) -> None:
    send(shared, "where do zebras live?", "or run it")
    send(shared, "and okapis?", "No code here.")
    send(shared, "/new", "[new conversation]")
    shared.type("\x0c")
    send(shared, "/search ZEBRAS compile", "turn 1", "you: where do zebras live?", "/found N opens")
    assert any(
        cell.bold and cell.underscore and cell.data == "z"
        for row in shared.screen.buffer.values()
        for cell in row.values()
    )
    send(shared, "/found 1", "> where do zebras live?", "turn 1 of 2; the conversation goes on")
    send(shared, "/branches", "2 turns  and okapis?")
    send(shared, "/search no such animal", "no turn that is kept has all of no such animal")


def test_a_first_start_says_what_this_is_and_hints_in_the_input(tmp_path: Path) -> None:
    variables = {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "cli"]
    with Terminal(command, home=tmp_path, columns=100, variables=variables) as terminal:
        terminal.wait_for(*WELCOME, f"> {HINT}")
        assert terminal.screen.buffer[terminal.screen.cursor.y][2].fg == "brightblack"
        assert terminal.screen.cursor.x == 2
        terminal.resize(20, 24)
        terminal.wait_for("> Ask something, o…")
        terminal.resize(100, 24)
        terminal.wait_for(f"> {HINT}")
        terminal.type("h")
        terminal.wait_until(lambda: HINT not in terminal.text, "input without a hint")
        terminal.type("\x7f")
        terminal.wait_until(lambda: terminal.line == ">", "empty input")
        send(terminal, "/help copy", "/copy [code [N]]")
        assert HINT not in terminal.text


def test_what_a_command_leaves_running_ends_with_the_conversation(shared: Terminal) -> None:
    shared.type("!sleep 1000 >/dev/null & echo number $!\r")
    shared.wait_until(lambda: shared.line.startswith("run this command?"), "question")
    shared.type("y")
    shared.wait_for("[goes on until this conversation ends: ", "along with your next message]")
    (number,) = re.findall(r"^number (\d+)$", shared.text, re.MULTILINE)
    assert int(number) in {one.pid for one in processes()}
    send(shared, "/new", "[ended with the conversation: ", f"({number})]")
    assert int(number) not in {one.pid for one in processes()}


@pytest.mark.needs("mcp")
def test_a_slow_server_delays_no_prompt_and_ends_with_the_program(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "config.toml").write_text(
        'tools = true\n[mcp.slow]\ncommand = "/bin/sh"\n'
        'args = ["-c", "echo $$ >number; exec cat >nowhere"]\n'
    )
    variables = {"DSV4_HOME": str(state)}
    with chat(tmp_path, {"replies": ["Yes."]}, variables=variables) as terminal:
        terminal.wait_for_line(">")
        terminal.type("hello\r")
        terminal.wait_for("starting tools")
        number = tmp_path / "number"
        terminal.type("\x04\x04")  # now, not when it is answered
        assert terminal.wait_for_end() == 0
        assert not number.exists() or int(number.read_text()) not in {
            one.pid for one in processes()
        }
