"""benchmarks/report/children.py: however a part ends, what it told is there."""

import select

import pytest

from benchmarks.report import children
from benchmarks.report.children import Outcome, Stopped
from tests.benchmarks.report.broken import Broken

LONG = 1e6


def ended(how: str, limit_s: float = LONG, wait: children.Wait = children.readable) -> Outcome:
    heard: list[Outcome] = []
    part = Broken(how, limit_s)
    command, variables = part.command([]), part.variables()
    try:
        return children.run(how, command, variables, limit_s, heard.append, wait)
    finally:
        assert heard[-1].state != "running"


def told(outcome: Outcome) -> list[dict[str, str]]:
    return [{"kind": "told", "how": outcome.name}]


def test_what_a_part_tells_is_its_rows_and_nothing_else() -> None:
    outcome = ended("end")
    assert (outcome.state, outcome.message) == ("done", "")
    assert outcome.rows == told(outcome) and outcome.at == "about to end"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("abort", "ended by SIGABRT"),
        ("raise", "ended with status 1"),
        ("half a line", "ended with status 3"),
    ],
)
def test_a_part_that_fails_leaves_what_it_told(how: str, message: str) -> None:
    outcome = ended(how)
    assert outcome.state == "failed" and outcome.rows == told(outcome)
    assert outcome.at == f"about to {how}" and outcome.message.startswith(message)
    assert "what a library prints" in outcome.message


def test_a_part_that_does_not_end_is_ended_at_its_limit() -> None:
    heard: list[int] = []

    def until_it_tells(descriptor: int, seconds: float) -> bool:
        """Wait as long as it takes for the first line; then the limit is over."""
        assert 0 < seconds <= LONG
        if not heard:
            select.select([descriptor], [], [])
            heard.append(descriptor)
            return True
        return False

    outcome = ended("hang", wait=until_it_tells)
    assert (outcome.state, outcome.message) == ("hung", "ended after its limit of 1,000,000 s")
    assert outcome.rows == told(outcome)


def test_what_was_told_and_not_yet_read_is_kept_at_an_interruption() -> None:
    def interrupted(descriptor: int, seconds: float) -> bool:
        select.select([descriptor], [], [])
        raise KeyboardInterrupt

    heard: list[Outcome] = []
    part = Broken("hang", LONG)
    with pytest.raises(Stopped):
        children.run("hang", part.command([]), part.variables(), LONG, heard.append, interrupted)
    assert heard[-1].state == "interrupted" and heard[-1].rows == told(heard[-1])


def test_a_limit_that_is_over_ends_a_part_at_once() -> None:
    outcome = ended("hang", limit_s=0.0)
    assert (outcome.state, outcome.message) == ("hung", "ended after its limit of 0 s")
