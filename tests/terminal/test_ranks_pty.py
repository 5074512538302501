"""A conversation over two ranks: the terminal stays whatever becomes of them."""

from pathlib import Path

import pytest

from tests.terminal.driver import Terminal, chat
from tests.terminal.ranks import HERE, all_gone, hosts_options, kill, ranks_of, with_ssh

pytestmark = pytest.mark.terminal

SCRIPT = {
    "replies": [
        "The first answer.",
        {"text": "One word after the other. ", "repeat": 400, "delay_ms": 20},
        "The third answer.",
        {"text": "Hm.", "crash": "unforeseen"},
    ]
}


def opened(home: Path, worker: str = HERE, *more: str, **keys: str) -> Terminal:
    """The prompt over two ranks, one of them on the machine `worker`, which ssh knows."""
    options = hosts_options(home, worker, **keys)
    return chat(home, SCRIPT, *options, *more, columns=160, variables=with_ssh(home))


def ask(terminal: Terminal, text: str, answer: str) -> None:
    terminal.type(f"{text}\r")
    terminal.wait_for(answer)
    terminal.wait_for_line(">")


def test_a_conversation_over_two_ranks_goes_on_after_one_died(tmp_path: Path) -> None:
    with opened(tmp_path, "mini.local") as terminal:
        terminal.wait_for_line(">")
        ask(terminal, "hello", "The first answer.")
        assert "-- mini.local exec " in (tmp_path / "asked").read_text()
        assert "given up" in terminal.whole_text  # the limit is told at the start
        ranks = ranks_of(terminal.pid)
        assert len(ranks) == 2
        terminal.type("more\r")
        terminal.wait_for("One word after the other. One word")
        kill(ranks[1])
        terminal.wait_for("is gone: its program ended", "/restart starts both ranks")
        all_gone(ranks)
        ask(terminal, "\x15/restart", "both ranks run")
        terminal.type("\x0c")
        terminal.wait_until(lambda: "The first answer." not in terminal.text, "clear")
        ask(terminal, "/retry", "The first answer.")  # the turn before is still there
        again = ranks_of(terminal.pid)
        assert len(again) == 2 and not {*again} & {*ranks}
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
        all_gone(again)


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_leaves_both_ranks(tmp_path: Path) -> None:
    with opened(tmp_path) as terminal:
        terminal.wait_for_line(">")
        ask(terminal, "hello", "The first answer.")
        ranks = ranks_of(terminal.pid)
        terminal.type("more\r")
        terminal.wait_for("One word after the other. One word")
        terminal.type("\x03")
        terminal.wait_for("[stopped]")
        ask(terminal, "on", "The third answer.")
        assert ranks_of(terminal.pid) == ranks
        terminal.kill(9)  # nothing is left of a terminal that is ended at once either
        all_gone(ranks)
