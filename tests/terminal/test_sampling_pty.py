"""Changing how answers are drawn, at the prompt."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.terminal.driver import Terminal, chat
from tests.terminal.steps import send

pytestmark = pytest.mark.terminal

SCRIPT = {
    "context": 65_536,
    "effort_table": "2026-04",
    "replies": ["<think>Rayleigh.</think>Blue, mostly blue.", "<think>Again.</think>Still blue."],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sampling")


@pytest.fixture
def shared(borrowed: Callable[..., Terminal], folder: Path) -> Terminal:
    """A program at a new conversation."""
    terminal = borrowed("sampling", lambda: chat(folder, SCRIPT))
    terminal.type("/new\r")
    terminal.wait_for("[new conversation]")
    return terminal


def test_top_k_is_set_shown_and_given_back(shared: Terminal) -> None:
    send(shared, "/top_k", "[top-k 0: no limit]")
    send(shared, "/top_k 1", "[top-k 1]")
    send(shared, "which colour?", "Blue, mostly blue.")
    send(shared, "/top_k 1.5", "/top_k takes a whole number from 0 on, got '1.5'.")
    send(shared, "/top_k 99999999999999999999", "from 0 to 9223372036854775807, got")
    send(shared, "/top_k auto", "[top-k 0: no limit]")


def test_min_p_goes_with_its_conversation(shared: Terminal) -> None:
    send(shared, "/min_p 1", "[min-p 1]")
    send(shared, "which colour?", "Blue, mostly blue.")
    send(shared, "/save strict", "[kept as strict]")
    shared.type("/new\r")
    shared.wait_for("[new conversation]")
    send(shared, "/min_p 5e-324", "[min-p 4.94066e-324]")
    send(shared, "/load strict", "[strict: 1 turn]")
    send(shared, "/min_p", "[min-p 1]")
    send(shared, "/min_p auto", "[min-p 0: no limit]")


def test_the_penalty_takes_any_number_above_0(shared: Terminal) -> None:
    send(shared, "/penalty 1.05", "[repetition penalty 1.05]")
    send(shared, "which colour?", "Blue, mostly blue.")
    send(shared, "/penalty 0", "/penalty takes a number above 0, got '0'.")
    send(shared, "/penalty inf", "/penalty takes a number above 0, got 'inf'.")
    send(shared, "/penalty 1e-320", "[repetition penalty 9.99989e-321]")
    send(shared, "/max 3", "[at most 3 tokens]")
    send(shared, "again?", "[stopped after 3 tokens, the limit]")
    send(shared, "/max off", "[no limit but the context]")
    send(shared, "/penalty auto", "[repetition penalty 1: none]")


def test_a_budget_of_0_is_an_answer_without_reasoning(shared: Terminal) -> None:
    send(shared, "/budget 0", "[no reasoning: its budget is 0]")
    send(shared, "which colour?", "\n\nBlue, mostly blue.")
    shared.wait_for("think high (budget 0)")
    send(shared, "/think", "[the reasoning budget is 0, so there is none; /budget off lifts it]")
    send(shared, "/budget off", "[no limit on reasoning]")
    send(shared, "and now?", "thought for")
    shared.wait_for("Still blue.")
