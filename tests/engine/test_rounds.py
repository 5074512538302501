"""Rounds: tokens of several replies by one call, each as the reply says it alone, bit for bit."""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import mlx.core as mx
import pytest

from dsv4_mlx.cache import side_by_side
from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.sampling import Shifts
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import CacheError
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.engine import small_models
from tests.engine.company import Speaker, in_company, one_round, speaking
from tests.engine.replies import SAMPLINGS
from tests.engine.small_models import arrays, same
from tests.model.row_exact import MOST, row_exact_plan

SMALL = small_models.SELECTING
SHIFTS = Shifts(1.0, 0.5, ((7, 2.0), (8, -50.0)))
PLACES = (124, 66, 3, 31)
"""Prompts after which windows of 128 and of 4 tokens close, indexers begin to select and the first
entries are made, each at another token of a reply."""
WAYS: list[dict[str, Any]] = [
    {},
    SAMPLINGS["1.0"] | {"seed": 3},
    SAMPLINGS["penalty"] | {"seed": 4, "shifts": SHIFTS, "likeliest": 3},
    SAMPLINGS["top-p"] | {"seed": 5, "top_k": 9},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("small"), SMALL, tokenizer=False)
    model = load_model(
        open_checkpoint(folder), dtype=mx.float32, kernels=row_exact_plan(), drafts=True
    )
    model.row_finding = RowFinding(MOST, round_rows=MOST)
    return model


@pytest.fixture(scope="module")
def engine(model: Model) -> Engine:
    return Engine(model, compiled=False)


def prompt_of(length: int) -> list[int]:
    return small_models.prompt_of(length, SMALL.vocab_size)


_READ: WeakKeyDictionary[Engine, dict[int, Session]] = WeakKeyDictionary()


def synced(engine: Engine, length: int) -> Session:
    """A prompt, which each engine reads once."""
    read = _READ.setdefault(engine, {})
    if length not in read:
        read[length] = engine.session()
        read[length].sync(prompt_of(length))
    return read[length].fork()


Begin = Callable[[], Speaker]


def assert_as_alone(engine: Engine, begin: Sequence[Begin]) -> list[Speaker]:
    """All in company say what each says alone, and leave the same state."""
    together = [one() for one in begin]
    in_company(engine, together)
    for one, again in zip(together, begin, strict=True):
        alone = again()
        in_company(engine, [alone])
        assert one.said == alone.said
        assert str(one.error) == str(alone.error)
        assert one.session.tokens == alone.session.tokens
        assert same(arrays(one.session), arrays(alone.session))
    return together


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, model: Model) -> list[tuple[int, ...]]:
    """Shapes of the tokens of the model's calls."""
    found: list[tuple[int, ...]] = []
    own = type(model).streams

    def streams(self: Model, tokens: mx.array, *given: Any, **how: Any) -> mx.array:
        found.append(tokens.shape)
        return own(self, tokens, *given, **how)

    monkeypatch.setattr(type(model), "streams", streams)
    return found


def test_replies_of_other_lengths_and_samplings_are_those_alone(
    engine: Engine, calls: list[tuple[int, ...]]
) -> None:
    begun = [synced(engine, length) for length in PLACES]
    calls.clear()

    def begin(number: int) -> Begin:
        return lambda: speaking(begun[number].fork(), 7, **WAYS[number])

    assert_as_alone(engine, [begin(number) for number in range(4)])
    # Alone four calls a token; in company the first tokens alone, and the others by one call.
    assert calls[:10] == [(1, 1)] * 4 + [(1, 4)] * 6


def test_forks_of_one_timeline_close_the_same_windows_in_one_round(engine: Engine) -> None:
    """Which share their entries until then; one of them went on and back before."""
    trunk = synced(engine, 126)
    longer = trunk.fork()
    list(longer.stream(3, stop_ids=()))
    longer.rewind(125)
    begin = [
        lambda: speaking(trunk.fork(), 6, temperature=1.0, seed=1),
        lambda: speaking(trunk.fork(), 6, temperature=1.0, seed=2),
        lambda: speaking(longer.fork(), 6),
    ]
    said = [[token.id for token in one.said] for one in assert_as_alone(engine, begin)]
    assert said[0] != said[1]
    assert len(trunk) == 126


def test_whoever_ends_leaves_the_others_as_they_are(engine: Engine) -> None:
    """By its length, a stop token, a flag, and a stream that its owner closes."""
    begun = [synced(engine, length) for length in PLACES]
    third = [token.id for token in begun[1].fork().stream(3, stop_ids=())][2]
    begin = [
        lambda: speaking(begun[0].fork(), 3),
        lambda: speaking(begun[1].fork(), 9, stop_ids={third}),
        lambda: speaking(begun[2].fork(), 9, wanted=4),
        lambda: speaking(begun[3].fork(), 9, temperature=0.7, seed=2),
    ]
    found = assert_as_alone(engine, begin)
    assert [len(one.said) for one in found] == [3, 3, 4, 9]
    assert [one.said[-1].finish for one in found] == ["length", "stop", None, "length"]


def test_a_flag_that_is_set_inside_a_round_ends_the_reply_after_its_token(engine: Engine) -> None:
    speakers = [speaking(synced(engine, length), 9) for length in (3, 30)]
    assert one_round(engine, speakers) == []
    lines = [line for one in speakers if (line := one.session.joining) is not None]
    assert engine.start_together(lines) == {}
    for one, length in zip(speakers, (3, 30), strict=True):
        assert one.session.joining is None
        one.flag.set()
        one.take()
        one.take()
        assert one.ended and len(one.said) == 2
        assert one.said == list(synced(engine, length).stream(9, stop_ids=()))[:2]
        assert one.session.tokens == [*prompt_of(length), *(token.id for token in one.said)]


def test_a_token_that_was_started_and_not_taken_is_lost(engine: Engine) -> None:
    speakers = [speaking(synced(engine, n), 9) for n in (30, 65)]
    one_round(engine, speakers)
    lines = [line for one in speakers if (line := one.session.joining) is not None]
    assert engine.start_together(lines) == {}
    first, second = speakers
    ids = first.session.tokens
    first.stream.close()  # type: ignore[attr-defined]
    assert first.session.tokens == ids and first.session.joining is None
    alone = synced(engine, 30)
    expected = [token.id for token in alone.stream(4, stop_ids=())]
    assert [token.id for token in first.session.stream(3, stop_ids=())] == expected[1:]
    in_company(engine, [second])
    assert second.said == list(synced(engine, 65).stream(9, stop_ids=()))


# Errors


class Failing(RuntimeError):
    """What a test makes fail."""


def fails_to_close(session: Session) -> Session:
    """Whose last layer's next window cannot be closed."""

    def append(rows: mx.array) -> None:
        raise Failing("no room for an entry")

    (state,) = session._timeline.cache[2].rows
    state.entries.append = append
    return session


def fails_to_draw(at: int) -> Callable[[mx.array], mx.array]:
    drawn: list[int] = []

    def sampler(logprobs: mx.array) -> mx.array:
        drawn.append(1)
        if len(drawn) == at:
            raise Failing("nothing may be said")
        return mx.argmax(logprobs)

    return sampler


def test_what_fails_in_one_timeline_ends_its_reply_alone(
    engine: Engine, calls: list[tuple[int, ...]]
) -> None:
    """In the middle of the pass, after layers that took the tokens of others in."""
    begun = [synced(engine, length) for length in (125, 67, 124)]
    begin = [
        lambda: speaking(begun[0].fork(), 8, temperature=1.0, seed=7),
        lambda: speaking(fails_to_close(begun[2].fork()), 8),
        lambda: speaking(begun[1].fork(), 8),
    ]
    calls.clear()
    together = [one() for one in begin]
    in_company(engine, together)
    assert calls == [(1, 1)] * 3 + [(1, 3)] * 3 + [(1, 1)] * 3 + [(1, 2)] * 4
    for one, again in zip(together, begin, strict=True):
        alone = again()
        in_company(engine, [alone])
        assert one.said == alone.said
        assert str(one.error) == str(alone.error)
    assert isinstance(together[1].error, Failing) and len(together[1].said) == 3


def test_a_draw_that_fails_ends_its_reply_alone(engine: Engine) -> None:
    begun = [synced(engine, length) for length in (30, 65, 3)]
    begin = [
        lambda: speaking(begun[0].fork(), 6, temperature=1.0, seed=7),
        lambda: speaking(begun[1].fork(), 6, sampler=fails_to_draw(4)),
        lambda: speaking(begun[2].fork(), 6, sampler=fails_to_draw(5)),
    ]
    errors = [type(one.error) for one in assert_as_alone(engine, begin)]
    assert errors == [type(None), Failing, Failing]


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """The device refuses what a round asks of it, once for each that stands here."""
    wanted: list[None] = []
    own = mx.async_eval

    def refused(*arrays: Any) -> None:
        if isinstance(arrays[0], list) and len(arrays) > 1 and wanted:
            wanted.pop()
            raise Failing("out of memory")
        own(*arrays)

    monkeypatch.setattr(mx, "async_eval", refused)
    return wanted


def test_what_the_device_refuses_each_reads_again_and_goes_on_with(
    engine: Engine, calls: list[tuple[int, ...]], refusing: list[None]
) -> None:
    """By calls of its own, while whoever was not in that round goes on as ever."""
    begun = [synced(engine, length) for length in (30, 65, 3)]
    ways = [WAYS[1], WAYS[2], {}]
    together = [speaking(one.fork(), 9, **way) for one, way in zip(begun, ways, strict=True)]
    for _ in range(3):
        one_round(engine, together[:2])
    refusing.append(None)
    calls.clear()
    in_company(engine, together)
    # The third's first token is its own; read again are the prompt's last token and three more.
    assert calls[:6] == [(1, 2), (1, 4), (1, 1), (1, 4), (1, 1), (1, 1)]
    assert set(calls[6:]) == {(1, 1)} and not refusing
    for one, before, way in zip(together, begun, ways, strict=True):
        alone = speaking(before.fork(), 9, **way)
        in_company(engine, [alone])
        assert one.error is None and one.said == alone.said
        assert same(arrays(one.session), arrays(alone.session))


def test_the_next_reply_of_who_went_on_alone_takes_part_in_rounds(
    engine: Engine, refusing: list[None]
) -> None:
    sessions = [synced(engine, length) for length in (30, 65)]
    refusing.append(None)
    in_company(engine, [speaking(one, 3) for one in sessions])
    again = [speaking(one, 3) for one in sessions]
    one_round(engine, again)
    assert len(one_round(engine, again)) == 2


def test_who_cannot_be_read_again_ends_alone(engine: Engine, refusing: list[None]) -> None:
    """And goes on where it was, once it can."""
    begun = [synced(engine, length) for length in (30, 65, 3)]
    together = [speaking(one, 9) for one in begun]
    for _ in range(3):
        one_round(engine, together)
    refusing.append(None)
    line = begun[1]._line
    own, line.catch_up = line.catch_up, raising("out of memory too")  # type: ignore[method-assign]
    in_company(engine, together)
    line.catch_up = own  # type: ignore[method-assign]
    assert [str(one.error) for one in together] == ["None", "out of memory too", "None"]
    assert [len(one.said) for one in together] == [9, 3, 9]
    expected = [token.id for token in synced(engine, 65).stream(6, stop_ids=())]
    assert begun[1].tokens == prompt_of(65) + expected[:3]
    assert [token.id for token in begun[1].stream(3, stop_ids=())] == expected[3:]


def raising(text: str) -> Callable[..., Any]:
    def fail(*given: Any) -> None:
        raise Failing(text)

    return fail


def test_a_call_of_other_shapes_is_refused(model: Model) -> None:
    caches = [model.make_cache() for _ in range(2)]
    with pytest.raises(CacheError, match=r"one token of each of 2 timelines.*found \[1, 3\]"):
        model(mx.array([[1, 2, 3]]), side_by_side(caches))
    merged = [type(a).merge([a, b]) for a, b in zip(*caches, strict=True)]
    with pytest.raises(CacheError, match="a batch of 2 rows"):
        side_by_side([merged, caches[0]])
