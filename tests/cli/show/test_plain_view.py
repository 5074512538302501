"""The plain view: answer on stdout, all else on stderr, nothing redrawn."""

from collections.abc import Sequence

import pytest

from cli.environment import Environment
from cli.show.output import PlainOutput
from cli.show.plain_view import PlainView
from dsv4_mlx.chat.events import (
    BudgetReached,
    Done,
    Event,
    LoopNoticed,
    Progress,
    ReasoningDelta,
    TextDelta,
    Usage,
)
from dsv4_mlx.chat.messages import ToolCall
from tests.cli.running import Stream

USAGE = Usage(5, 0, 7)


def viewed(
    events: Sequence[Event], reasoning: str = "show", *, unfold: bool = False
) -> tuple[str, str]:
    """What stdout and stderr hold after `events`, seconds passing one by one."""
    stdout, stderr, seconds = Stream(), Stream(), iter(range(1000))
    environment = Environment(stdout=stdout, stderr=stderr, variables={"TERM": "dumb"})
    view = PlainView(
        PlainOutput(environment), reasoning=reasoning, clock=lambda: float(next(seconds))
    )
    view.begin(len)
    for event in events:
        view.feed(event)
    view.end()
    if unfold:
        view.unfold_last()
    return stdout.getvalue(), stderr.getvalue()


THOUGHT = [ReasoningDelta("Hm, "), ReasoningDelta("a sum."), TextDelta("Fo"), TextDelta("ur.")]


def test_answer_and_reasoning_stream_to_two_places() -> None:
    assert viewed([*THOUGHT, Done("stop", USAGE)]) == ("Four.\n", "Hm, a sum.\n")


def test_folded_reasoning_is_one_line() -> None:
    assert viewed([*THOUGHT, Done("stop", USAGE)], "fold") == (
        "Four.\n",
        "[thought for 1.0 s · 10 tokens]\n",
    )


def test_hidden_reasoning_leaves_nothing_and_can_still_be_read() -> None:
    assert viewed(THOUGHT, "hide") == ("Four.\n", "")
    assert viewed(THOUGHT, "hide", unfold=True) == ("Four.\n", "Hm, a sum.\n")


def test_without_reasoning_there_is_nothing_to_unfold() -> None:
    assert viewed([TextDelta("x")], unfold=True) == ("x\n", "[no reasoning to show]\n")


def test_nothing_is_redrawn_where_nobody_watches() -> None:
    assert viewed([Progress(512, 1024), TextDelta("x")]) == ("x\n", "")


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [("length", "[stopped after 7 tokens, the limit]\n"), ("cancelled", "[stopped]\n")],
)
def test_an_answer_that_was_cut_says_so(reason: str, sentence: str) -> None:
    assert viewed([TextDelta("Fo"), Done(reason, USAGE)]) == ("Fo\n", sentence)


def test_a_tool_call_is_told_with_its_arguments() -> None:
    call = ToolCall("read_file", '{"path": "a\\u202eb.py", "lines": [1, 2], "text": "x\\ny"}')
    assert viewed([TextDelta("I look."), call])[1].splitlines() == [
        "tool call: read_file",
        "  path: a\\u202eb.py",
        "  lines: [1, 2]",
        "  text: x",
        "    y",
    ]


def test_long_and_broken_arguments_are_cut_short() -> None:
    long = viewed([ToolCall("write", '{"text": "' + "line\\n" * 99 + "x" * 999 + '"}')])[1]
    assert long.splitlines()[-1] == "    … 88 more lines"
    broken = viewed([ToolCall("write", "[" * 5000)])[1]
    assert broken.splitlines()[-1] == f"  {'[' * 400} … 4,600 more characters"


def test_a_budget_is_told_where_the_reasoning_ends() -> None:
    events = [ReasoningDelta("Hm"), BudgetReached("soft", 9), TextDelta("4")]
    assert viewed(events) == ("4\n", "Hm\n[reasoning ended after 9 tokens, its budget]\n")


def test_a_loop_in_an_answer_is_noted_beside_it() -> None:
    """What goes to stdout stays unbroken."""
    events = [TextDelta("go on "), LoopNoticed("answer", 3, 400), TextDelta("and on")]
    stdout, stderr = viewed(events)
    assert stdout == "go on and on\n"
    assert stderr == (
        "[the answer runs in a loop: the same 3 tokens, 400 times in a row; Ctrl-C ends it, "
        "/loop stop does by itself]\n"
    )


@pytest.mark.parametrize(
    ("done", "told"),
    [
        (Done("stop_text", USAGE, stop_text="a\n"), '[ended before the stop text "a\\n"]\n'),
        (Done("loop", USAGE), "[ended, since it repeated itself]\n"),
    ],
)
def test_why_an_answer_ended_is_told(done: Done, told: str) -> None:
    assert viewed([TextDelta("x"), done])[1] == told
