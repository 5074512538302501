"""Two ranks whose terminal is left, closed or impatient, or whose worker loads for ever: no process
is left."""

from pathlib import Path

import pytest

from tests.terminal.driver import Terminal
from tests.terminal.ranks import all_gone, ranks_of, wait_until, worker_that
from tests.terminal.test_ranks_pty import ask, opened

pytestmark = pytest.mark.terminal

MINI = "mini.local"
# The worker has met rank 0 and agreed with it, and never says that it has loaded.
STOPS = """
from cli.ranks import rank_model
rank_model.exchange = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)
"""
FAILS = """
from cli.ranks import rank_model
def agree(*_):
    raise ValueError("unforeseen")
rank_model.agree = agree
"""


def both_ranks(terminal: Terminal) -> list[int]:
    """The processes, once both are there."""
    wait_until(lambda: len(ranks_of(terminal.pid)) == 2)
    return ranks_of(terminal.pid)


def answering(terminal: Terminal) -> list[int]:
    """The processes, in the middle of an answer."""
    terminal.wait_for_line(">")
    ask(terminal, "hello", "The first answer.")
    ranks = both_ranks(terminal)
    terminal.type("more\r")
    terminal.wait_for("One word after the other. One word")
    return ranks


def test_a_window_that_is_closed_in_an_answer_takes_both_ranks_with_it(tmp_path: Path) -> None:
    with opened(tmp_path) as terminal:
        ranks = answering(terminal)
        assert terminal.hang_up() == 0
    all_gone(ranks)


@pytest.mark.slow
def test_ctrl_c_twice_ends_a_load_and_both_ranks(tmp_path: Path) -> None:
    with opened(tmp_path, MINI, "-p", "hello") as terminal:
        ranks = both_ranks(terminal)
        terminal.type("\x03\x03")
        assert terminal.wait_for_end() == 130
        assert "Traceback" not in terminal.whole_text
    all_gone(ranks)


@pytest.mark.slow
def test_ctrl_c_twice_in_an_answer_leaves_a_prompt_that_works(tmp_path: Path) -> None:
    with opened(tmp_path) as terminal:
        ranks = answering(terminal)
        terminal.type("\x03\x03")
        terminal.wait_for("[stopped]")
        ask(terminal, "on", "The third answer.")
        assert ranks_of(terminal.pid) == ranks
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    all_gone(ranks)


@pytest.mark.slow
def test_a_load_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    python = worker_that(tmp_path, STOPS)
    with opened(tmp_path, MINI, python=python) as terminal:
        terminal.wait_for_line(">")
        terminal.type("hello\r")
        ranks = both_ranks(terminal)
        terminal.type("\x03")
        terminal.wait_for("[stopped]")
        terminal.type("\x15/quit\r")
        assert terminal.wait_for_end() == 0
    all_gone(ranks)


@pytest.mark.slow
def test_a_worker_that_is_stopped_while_it_loads_is_given_up(tmp_path: Path) -> None:
    python = worker_that(tmp_path, STOPS)
    with opened(tmp_path, MINI, "--peer-timeout", "12", python=python) as terminal:
        terminal.wait_for_line(">")
        terminal.type("hello\r")
        ranks = both_ranks(terminal)
        terminal.wait_for(") has not answered for ", "/restart starts both ranks")
        all_gone(ranks)
        terminal.type("\x15/quit\r")
        assert terminal.wait_for_end() == 0


@pytest.mark.slow
def test_a_mistake_of_a_worker_is_a_sentence_and_its_trace_is_kept(tmp_path: Path) -> None:
    python = worker_that(tmp_path, FAILS)
    with opened(tmp_path, MINI, python=python) as terminal:
        terminal.wait_for_line(">")
        terminal.type("hello\r")
        terminal.wait_for("ValueError: unforeseen", "/restart starts both ranks")
        assert "Traceback" not in terminal.whole_text
        terminal.type("\x15/quit\r")
        assert terminal.wait_for_end() == 0
    kept = (tmp_path / ".local" / "state" / "dsv4" / "ranks.log").read_text()
    assert kept.startswith("Traceback ") and kept.endswith("ValueError: unforeseen\n")


@pytest.mark.slow
def test_a_mistake_of_rank_0_is_a_sentence_and_a_new_pair_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path) as terminal:
        ranks = answering(terminal)
        terminal.type("\x03")
        terminal.wait_for("[stopped]")
        ask(terminal, "on", "The third answer.")
        terminal.type("fail\r")
        terminal.wait_for("rank 0 (this machine) failed: RuntimeError: unforeseen; start both")
        terminal.wait_for("/restart starts both ranks")
        all_gone(ranks)
        ask(terminal, "\x15/restart", "both ranks run")
        assert "Traceback" not in terminal.whole_text
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
