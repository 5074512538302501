"""What a person sees of an answer, as text of a fixed width."""

from collections.abc import Callable

import pytest

from cli.show.renderer import MarkdownView
from cli.show.theme import DARK, PLAIN
from dsv4_mlx.chat.events import BudgetReached, Done, Progress, ReasoningDelta, TextDelta, Usage
from dsv4_mlx.chat.messages import ToolCall
from tests.cli.markdown_texts import ANSWER
from tests.cli.screen import Clock, Screen, viewed

USAGE = Usage(5, 0, 7)
DONE = Done("stop", USAGE)
THOUGHT = [ReasoningDelta("Hm, "), ReasoningDelta("a sum.\nOf two."), TextDelta("Four.")]


def view_on(screen: Screen, **options) -> MarkdownView:
    return MarkdownView(screen, DARK, **({"clock": Clock()} | options))


@pytest.mark.parametrize("width", [72, 40])
def test_an_answer_is_drawn(width: int, golden: Callable[[str, str], None]) -> None:
    screen = viewed([TextDelta(char) for char in ANSWER] + [DONE], width=width)
    golden(f"screens/answer_{width}.txt", screen.printed)


def test_plain_keeps_the_marks(golden: Callable[[str, str], None]) -> None:
    golden("screens/answer_plain.txt", viewed([TextDelta(ANSWER), DONE], theme=PLAIN).printed)


def test_styles_are_where_they_belong(golden: Callable[[str, str], None]) -> None:
    screen = viewed([ReasoningDelta("Hm"), TextDelta(ANSWER), DONE], colours=True)
    golden("screens/answer_styles.txt", screen.printed.replace("\x1b", "␛"))


def test_a_finished_block_is_printed_once_and_the_open_one_is_live() -> None:
    screen = Screen()
    view = view_on(screen)
    view.feed(TextDelta("One.\n\nTw"))
    assert (screen.printed, screen.live_text) == ("\nOne.\n", "\nTw\n")
    view.feed(TextDelta("o.\n"))
    assert (screen.printed, screen.live_text) == ("\nOne.\n", "\nTwo.\n")
    view.feed(DONE)
    view.end()
    assert (screen.printed, screen.is_still) == ("\nOne.\n\nTwo.\n\n", True)


def test_an_unfinished_answer_ends_well() -> None:
    screen = Screen(40)
    view = view_on(screen)
    view.feed(TextDelta("Look:\n```sh\nls"))
    view.end()
    assert screen.printed.splitlines() == ["", "Look:", "── sh " + "─" * 34, "ls", "─" * 40, ""]
    assert screen.is_still


def test_reasoning_folds_to_one_line() -> None:
    screen = viewed([*THOUGHT, DONE], count=len)
    assert screen.printed == "thought for 2.0 s · 18 tokens\n\nFour.\n\n"


def test_reasoning_is_live_while_it_comes() -> None:
    screen = Screen(14)
    view = view_on(screen)
    view.feed(ReasoningDelta("one two three four\n\nfive\nsix\nseven"))
    assert screen.live_text.splitlines() == [
        "thinking · 0 s",
        "  three four",
        "  five",
        "  six",
        "  seven",
    ]
    assert screen.printed == ""


def test_shown_reasoning_is_printed_line_by_line() -> None:
    screen = viewed([*THOUGHT, DONE], reasoning="show")
    assert screen.printed == "Hm, a sum.\nOf two.\nthought for 2.0 s\n\nFour.\n\n"


def test_hidden_reasoning_leaves_nothing() -> None:
    assert viewed([*THOUGHT, DONE], reasoning="hide").printed == "\nFour.\n\n"


def test_folded_reasoning_can_be_read() -> None:
    screen = Screen()
    view = view_on(screen)
    view.unfold_last()
    for event in [*THOUGHT, DONE]:
        view.feed(event)
    view.unfold_last()
    assert screen.printed == (
        "[no reasoning to show]\nthought for 0.0 s\n\nFour.\nHm, a sum.\nOf two.\n\n"
    )


def test_a_long_prompt_has_a_bar() -> None:
    screen, clock = Screen(), Clock()
    view = view_on(screen, clock=clock)
    view.begin()
    clock.now += 1
    view.feed(Progress(1024, 4096))
    assert screen.live_text == (
        "reading 1,024 of 4,096 tokens  ━━━╌╌╌╌╌╌╌╌╌╌╌  1,024 tokens/s · 3 s left\n"
    )


def test_tokens_that_pass_the_layers_together_have_a_bar_of_layers() -> None:
    screen = Screen()
    view_on(screen).feed(Progress(0, 24, (11, 43)))
    assert screen.live_text == (
        "reading 0 of 24 tokens · layer 12 of 43  ━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌\n"
    )
    view_on(screen).feed(Progress(0, 24, (43, 43)))
    assert "layer 43 of 43" in screen.live_text and "╌" not in screen.live_text


def test_a_short_prompt_has_none() -> None:
    screen = Screen()
    view_on(screen).feed(Progress(12, 24))
    assert screen.is_still


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [("length", "[stopped after 7 tokens, the limit]"), ("cancelled", "[stopped]")],
)
def test_an_answer_that_was_cut_says_so(reason: str, sentence: str) -> None:
    screen = viewed([TextDelta("Fo"), Done(reason, USAGE)])
    assert screen.printed == f"\nFo\n{sentence}\n\n"


def test_a_tool_call_is_a_block_of_its_own() -> None:
    call = ToolCall("read_file", '{"path": "a\\u202eb.py"}')
    screen = viewed([TextDelta("I look.\n"), call, TextDelta("Seen."), DONE])
    assert screen.printed == "\nI look.\n\ntool call: read_file\n  path: a\\u202eb.py\n\nSeen.\n\n"


def test_a_budget_is_told_once_the_reasoning_is_over() -> None:
    late = [ReasoningDelta("Hm"), BudgetReached("hard", 9), ReasoningDelta("."), TextDelta("4")]
    assert viewed([*late, DONE]).printed == (
        "thought for 3.0 s · 9 tokens\n[reasoning cut off after 9 tokens, its budget]\n\n4\n\n"
    )


def test_reasoning_without_an_answer_counts_as_the_engine_did() -> None:
    done = Done("length", Usage(5, 0, 7, 7))
    assert viewed([ReasoningDelta("Hm"), done], count=len).printed == (
        "thought for 1.0 s · 7 tokens\n[stopped after 7 tokens, the limit]\n\n"
    )


@pytest.mark.parametrize("marks", ["**", "```", "- ", "1.", "##", "|--", "> "])
def test_marks_alone_are_not_drawn_before_they_mean_something(marks: str) -> None:
    screen = Screen()
    view = view_on(screen)
    view.feed(TextDelta(f"One.\n{marks}"))
    assert screen.live_text == "\nOne.\n"


def test_strong_words_are_strong_from_the_first_letter_on() -> None:
    screen = Screen()
    view = view_on(screen)
    view.feed(TextDelta("So **now"))
    assert screen.live_text == "\nSo now\n"
