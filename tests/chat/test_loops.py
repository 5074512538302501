"""A reply that says the same without end: noticed when it does, and not before."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat.events import LoopNoticed, ReasoningDelta, TextDelta
from dsv4_mlx.chat.loops import LEAST_TOKENS, LONGEST, PASSAGE, REPEATS, LoopWatch
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import END_THINK
from dsv4_mlx.scripted.engine import NANO
from tests.chat.talking import CHAT, THINKING, answer, talk

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return Tokenizer(NANO)


def noticed(tokens, text: str = "") -> int | None:
    """After how many tokens the loop is noticed."""
    watch = LoopWatch()
    return next((count for count, t in enumerate(tokens, 1) if watch.add(t, text)), None)


def said(tokenizer: Tokenizer, text: str) -> LoopWatch | None:
    """The watch that noticed a loop in `text`."""
    watch = LoopWatch()
    for token in tokenizer.encode(text):
        if watch.add(token, tokenizer.token_bytes(token).decode("utf-8", "replace")):
            return watch
    return None


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(st.integers(0, 5), max_size=200),
    passage=st.lists(st.integers(6, 9), min_size=1, max_size=12),
    spread=st.integers(1, 40),
)
def test_a_loop_of_any_length_is_noticed_in_time(before, passage, spread) -> None:
    """Passages that repeat parts of themselves too, after text that does not."""
    passage = [*(passage * spread)[: LONGEST - 1], 100]  # exactly one place is like no other
    enough = 8 if len(passage) >= PASSAGE else REPEATS
    needed = max(LEAST_TOKENS, enough * len(passage))
    tokens = [*range(200, 300), *before, *(passage * (needed // len(passage) + 2))]
    found = noticed(tokens)
    assert found is not None
    assert 0 <= found - 100 - len(before) - needed <= 2 * 32


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 10**6))
def test_what_repeats_less_often_is_no_loop(passage, seed) -> None:
    repeats = REPEATS - 1
    tokens = list(range(10, 20))
    for number in range(4):  # again and again, with something else in between
        tokens += passage * repeats + [100 + number]
    # A passage may consist of repeats of a shorter one, which is said more often.
    shortest = next(
        n for n in range(1, len(passage) + 1)
        if len(passage) % n == 0 and passage == passage[:n] * (len(passage) // n)
    )  # fmt: skip
    run = len(passage) * repeats
    is_loop = run >= LEAST_TOKENS and run // shortest >= REPEATS
    assert (noticed(tokens) is not None) <= is_loop


def test_a_single_line_needs_more_repeats_than_a_passage() -> None:
    row = list(range(100))
    watch = LoopWatch()
    texts = ["x"] * 99 + ["\n"]
    rows = [watch.add(t, text) for _ in range(60) for t, text in zip(row, texts, strict=True)]
    assert not any(rows)
    assert noticed(row * 60) is not None


ALIKE = {
    "numbers": "".join(f"{i}\n" for i in range(1, 2000)),
    "a table": "".join(f"| row {i} | {i * i} | yes |\n" for i in range(400)),
    "one row 50 times": "| 0 | 0 | 0 | 0 | no |\n" * 50,
    "a wide row 50 times": "|" + " 0.00 |" * 60 + "\n" + ("|" + " 0.00 |" * 60 + "\n") * 50,
    "a list": "".join(f"- item {i} of the list\n" for i in range(500)),
    "50 alike items": "- [ ] to do\n" * 50,
    "code": "".join(f"    values[{i}] = 0\n" for i in range(300)),
    "code, 50 alike lines": "    values.append(0)\n" * 50,
    "a matrix": "\n".join(", ".join("0" for _ in range(16)) for _ in range(16)),
    "rules": "\n\n".join("-" * 80 for _ in range(20)),
    "csv": "".join(f"Berlin,2026-01-{i % 28 + 1:02},{i % 7}.5,C\n" for i in range(365)),
    "html": "<tr>\n  <td></td>\n  <td></td>\n</tr>\n" * 50,
    "json": "[" + ",\n".join(f'{{"id": {i}, "tags": [], "ok": true}}' for i in range(200)) + "]",
    "a counter": "".join(f"Step {i}: I look at it again and go on.\n" for i in range(300)),
}


@pytest.mark.parametrize("text", ALIKE.values(), ids=ALIKE)
def test_lists_tables_and_code_are_no_loops(nano: Tokenizer, text: str) -> None:
    assert said(nano, text) is None


def _documents() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.py", "*.csv", "*.json", "*.txt", "*.metal", "*.toml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    found = [ROOT / name for name in listed] or [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    return [path for path in found if path.is_file() and path.stat().st_size < 60_000][::8]


def test_our_own_texts_are_no_loops(nano: Tokenizer) -> None:
    documents = _documents()
    assert len(documents) > 5
    loops = [path.name for path in documents if said(nano, path.read_text(encoding="utf-8"))]
    assert loops == []


LOOPS = {
    "a word": "the ",
    "a sentence": "I should look at it once more. ",
    "a doubt": "Wait, that is not right. Let me think again about the sum of both.\n\n",
    "a paragraph": "The river is long and old, and it goes to the sea. " * 3 + "So it is.\n\nNow, ",
    "two lines": "yes\nno\n",
    "nothing": " " * 64,
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS)
def test_real_loops_are_noticed(nano: Tokenizer, text: str) -> None:
    watch = said(nano, "Let us see what there is. " + text * 1500)
    assert watch is not None
    assert watch.run < max(3 * LEAST_TOKENS, 80 * len(nano.encode(text)))


def test_a_token_costs_the_same_however_long_the_reply_is() -> None:
    """Counted in steps of the interpreter's own, not in time: nothing grows."""
    watch = LoopWatch()
    for number in range(20_000):
        watch.add(number * number % 4093, "x")
    assert len(watch._ids) <= 3 * LONGEST * 2


def events_of(tokenizer: Tokenizer, reply: str, thinking=CHAT, **options):
    return answer(talk(tokenizer, reply, thinking=thinking, **options), "go")


LOOP = "go on and on " * 320


def test_an_answer_that_loops_is_noticed_once_and_goes_on(tokenizer: Tokenizer) -> None:
    events, done = events_of(tokenizer, LOOP)
    (notice,) = [event for event in events if isinstance(event, LoopNoticed)]
    assert (notice.part, notice.repeats * notice.period >= LEAST_TOKENS - 64) == ("answer", True)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == LOOP
    assert done.finish_reason == "stop"


def test_an_answer_that_loops_can_be_ended(tokenizer: Tokenizer) -> None:
    conversation = talk(tokenizer, LOOP, "And now?", loops="stop")
    events, done = answer(conversation, "go")
    assert done.finish_reason == "loop"
    assert isinstance(events[-1], LoopNoticed)
    said = "".join(e.text for e in events if isinstance(e, TextDelta))
    assert LOOP.startswith(said) and 0 < len(said) < len(LOOP)
    assert conversation.messages[-1]["content"] == said
    timeline = conversation.context().used
    _, second = answer(conversation, "on")
    assert second.usage.cached_tokens == timeline


def test_reasoning_that_loops_is_closed_and_the_answer_comes(tokenizer: Tokenizer) -> None:
    # The scripted model goes on with the reply; what follows the closing is the answer.
    events, _ = events_of(tokenizer, LOOP, THINKING, loops="stop", max_tokens=1500)
    kinds = [type(event) for event in events]
    assert kinds[:3] == [ReasoningDelta, LoopNoticed, TextDelta]
    assert events[1].part == "reasoning"


def test_both_parts_are_watched_apart(tokenizer: Tokenizer) -> None:
    events, _ = events_of(tokenizer, LOOP + END_THINK + LOOP, THINKING)
    parts = [event.part for event in events if isinstance(event, LoopNoticed)]
    assert parts == ["reasoning", "answer"]


def test_nothing_is_said_when_it_is_off(tokenizer: Tokenizer) -> None:
    events, _ = events_of(tokenizer, LOOP, loops="off")
    assert [type(event) for event in events] == [TextDelta]
