"""A conversation over two ranks with the model that comes with the program, as a person has it."""

import re
import sys
from pathlib import Path

import pytest

from tests.cli.running import run
from tests.terminal.driver import Terminal
from tests.terminal.ranks import all_gone, hosts_options, ranks_of

pytestmark = pytest.mark.terminal

ROOT = Path(__file__).parents[2]
MODEL = ["--backend", "cpu", "--temp", "0", "--think", "none", "--max-tokens", "12"]
FIRST, SECOND = "What is CSA?", "What is HCA?"
USED = re.compile(r"\[(\d+) of [\d,]+ tokens; window ")


def ask(terminal: Terminal, text: str, answer: str) -> None:
    """Send `text` at a screen that shows nothing else, and wait for what comes of it."""
    terminal.type("\x15\x0c")
    terminal.wait_until(lambda: len(terminal.text.splitlines()) == 2, "clear")
    terminal.type(f"{text}\r")
    terminal.wait_for(answer)


def answered(terminal: Terminal, text: str, answer: str) -> None:
    """Ask the model, and wait until nothing more comes of its answer, which the limit ends."""
    ask(terminal, text, answer)
    terminal.wait_for("[stopped after 12 tokens, the limit]")
    terminal.wait_until(lambda: "answering" not in terminal.text, "end of the answer")
    terminal.wait_for_line(">")


def used(terminal: Terminal) -> int:
    """Tokens of the context, as `/context` tells them."""
    ask(terminal, "/context", " tokens; window ")
    terminal.wait_for_line(">")
    found = USED.search(terminal.text)
    assert found is not None
    return int(found[1])


def test_a_whole_conversation_over_two_ranks_is_that_of_one_machine(tmp_path: Path) -> None:
    typed = f"{FIRST}\n/context\n{SECOND}\n/context\n/undo\n/context\n/quit\n"
    alone = run(*MODEL, "--plain", "--no-save", typed=typed)
    first, second = alone.stdout.splitlines()
    assert first != second
    after_one, after_two, after_undo = map(int, USED.findall(alone.stderr))

    command = [sys.executable, "-m", "cli", *MODEL, *hosts_options(tmp_path)]
    variables = {"PYTHONPATH": str(ROOT)}
    with Terminal(command, home=tmp_path, columns=100, variables=variables) as terminal:
        terminal.wait_for_line(">")
        answered(terminal, FIRST, first)
        assert ") has layers 3 to 4 of 5 and needs" in terminal.text
        ranks = ranks_of(terminal.pid)
        assert len(ranks) == 2
        assert used(terminal) == after_one
        answered(terminal, SECOND, second)
        assert used(terminal) == after_two > after_undo
        ask(terminal, "/undo", f"[took back: {SECOND}]")
        terminal.wait_for_line(f"> {SECOND}")  # to be changed
        assert used(terminal) == after_undo
        answered(terminal, SECOND, second)
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
        all_gone(ranks)
