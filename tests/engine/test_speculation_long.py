"""Thousands of tokens with drafts: nothing grows but the cache."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import pytest

from dsv4_mlx.cache import nbytes
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.generation import Token
from dsv4_mlx.engine.session import Session
from dsv4_mlx.model.mtp_drafts import MtpDrafts
from dsv4_mlx.scripted.fake import FakeModel, fake_engine
from tests.engine.drafting import ScriptedDrafts
from tests.engine.small_models import load_with_drafts, prompt_of
from tests.model.running import NANO

VOCAB = 300
PROMPT = list(range(2, 42))


def held(session: Session, cached: Callable[[], int]) -> tuple[int, int]:
    """Objects that Python looks after, and bytes of arrays beside the cache."""
    session.sizes()  # closes an open block
    mx.eval(session._timeline.arrays())
    gc.collect()
    return len(gc.get_objects()), mx.get_active_memory() - cached()


def check_flat(
    session: Session, stream: Iterator[Token], tokens: int, cached: Callable[[], int]
) -> list[int]:
    """The ids of `tokens` tokens; from the second quarter on nothing grows but the cache."""
    found = []
    first = (0, 0)
    for number, token in enumerate(stream, 1):
        found.append(token.id)
        if number == tokens // 4:
            first = held(session, cached)
    last = held(session, cached)
    assert len(found) == tokens
    # An object for every token, or 20 bytes of arrays, would be more than this.
    assert last[0] - first[0] < max(200, tokens // 10)
    assert last[1] - first[1] < 20 * (tokens - tokens // 4)
    return found


def following(tokens: Sequence[int]) -> int:
    """What the scripted model says next."""
    return 2 + (31 * tokens[-1] + 7 * len(tokens)) % (VOCAB - 2)


def mostly_right(tokens: list[int], count: int) -> list[int]:
    """As many right guesses as the timeline's length modulo 5 says, then wrong ones."""
    known, right = tokens[-1:], len(tokens) % 5
    length = len(tokens)
    for number in range(count):
        after = 2 + (31 * known[-1] + 7 * (length + number)) % (VOCAB - 2)
        known.append(after if number < right else 2 + after % (VOCAB - 2))
    return known[1:]


def check_scripted(tokens: int, **options: Any) -> None:
    model = FakeModel(following, vocab_size=VOCAB)
    drafts = ScriptedDrafts(mostly_right)
    engine = fake_engine(model, drafts=drafts, draft_most=7, draft_demanded=True)
    session = engine.session()
    session.sync(PROMPT)
    drafts.asked = NoList()
    stream = session.stream(tokens, stop_ids=(), **options)
    found = check_flat(session, stream, tokens, lambda: 0)
    expected = list(PROMPT)
    for _ in range(tokens):
        expected.append(following(expected))
    assert found == expected[len(PROMPT) :]
    use = session.draft_use
    assert use is not None and use.passes + use.accepted == tokens
    assert use.accepted > tokens // 3 and use.drafted > use.accepted + tokens // 3


class NoList(list[int]):
    """Forgets what it is told."""

    def append(self, number: int) -> None:
        pass


def test_hundreds_of_tokens_of_a_script_leave_nothing() -> None:
    check_scripted(600)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "tokens",
    [pytest.param(4000, marks=pytest.mark.slow), pytest.param(20_000, marks=pytest.mark.soak)],
)
def test_thousands_of_tokens_of_a_script_leave_nothing(tokens: int) -> None:
    check_scripted(tokens)


def check_nano(tokens: int, compared: int) -> None:
    """That many tokens with drafts, of which the first `compared` are those without."""
    model = load_with_drafts(NANO)
    prompt = prompt_of(20, model.config.vocab_size)
    options: dict[str, Any] = {"temperature": 1.0, "seed": 4, "stop_ids": ()}
    plain = Engine(model).session()
    plain.sync(prompt)
    expected = [token.id for token in plain.stream(compared, **options)]
    engine = Engine(model, drafts=MtpDrafts(model), draft_most=2, draft_demanded=True)
    session = engine.session()
    session.sync(prompt)
    stream = session.stream(tokens, **options)
    found = check_flat(session, stream, tokens, lambda: nbytes(session._timeline.cache))
    assert found[:compared] == expected
    use = session.draft_use
    assert use is not None and use.passes + use.accepted == tokens and use.accepted > 0


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_4_000_tokens_of_nano_leave_nothing_and_begin_as_without_drafts() -> None:
    check_nano(4000, compared=400)
