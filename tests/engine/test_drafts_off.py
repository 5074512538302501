"""Where drafts are off by themselves: several replies at once, weights that are elsewhere."""

from collections.abc import Iterator

import pytest

from dsv4_mlx.engine.drafting import Drafting
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.generation import Token
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import UsageError
from dsv4_mlx.scripted.fake import FakeModel, fake_engine
from tests.engine.drafting import ScriptedDrafts, from_text
from tests.engine.sessions import PROMPT, expected

TEXT = [*PROMPT, *expected(PROMPT, 60)]


@pytest.fixture
def drafts() -> ScriptedDrafts:
    return ScriptedDrafts(from_text(TEXT))


@pytest.fixture
def engine(drafts: ScriptedDrafts) -> Engine:
    """With a drafter that is always right, demanded from the first token on."""
    return fake_engine(drafts=drafts, draft_demanded=True)


def begun(engine: Engine) -> tuple[Session, Iterator[Token]]:
    """A session in the middle of a reply."""
    session = engine.session()
    session.sync(PROMPT)
    stream = session.stream(40, stop_ids=())
    next(stream)
    return session, stream


def read(session: Session, stream: Iterator[Token], count: int) -> int:
    """The passes that so many tokens take, which are the expected ones."""
    use = session.draft_use
    assert use is not None
    for _ in range(count):
        next(stream)
    assert session.tokens == TEXT[: len(session)]
    after = session.draft_use
    assert after is not None
    return after.passes - use.passes


def test_replies_at_once_are_decoded_without_drafts(engine: Engine, drafts: ScriptedDrafts) -> None:
    first, stream = begun(engine)
    assert read(first, stream, 5) == 0  # of the block that the first token opened
    second, other = begun(engine)
    asked = len(drafts.asked)
    for _ in range(4):
        assert read(first, stream, 1) == read(second, other, 1) == 1
    assert len(drafts.asked) == asked
    assert list(other)[-1].finish == "length"  # the others wait, and it ends
    assert read(first, stream, 12) == 2 and len(drafts.asked) > asked


def test_times_of_replies_at_once_teach_nothing(engine: Engine) -> None:
    first, stream = begun(engine)
    _, other = begun(engine)
    controller = engine.drafting.controller
    assert controller is not None
    recorded = []
    controller.record = recorded.append  # type: ignore[method-assign]
    for _ in range(5):
        next(stream)
        next(other)
    assert recorded == []
    other.close()  # type: ignore[attr-defined]
    read(first, stream, 13)
    assert [done.drafted for done in recorded] == [5, 5]


@pytest.mark.parametrize("how", ["closed", "dropped", "rewound", "synced", "asked again"])
def test_a_reply_that_ended_is_not_counted(engine: Engine, how: str) -> None:
    first, stream = begun(engine)
    second, other = begun(engine)
    assert engine.decodes_many
    if how == "closed":
        other.close()  # type: ignore[attr-defined]
    elif how == "dropped":
        del second, other
    elif how == "rewound":
        second.rewind(10)
    elif how == "synced":
        second.sync(PROMPT)
    else:
        later = second.stream(3, stop_ids=())
        assert not engine.decodes_many  # it has not begun
        next(later)
        with pytest.raises(UsageError, match="has moved on"):
            next(other)
        assert engine.decodes_many
        later.close()  # type: ignore[attr-defined]
    assert not engine.decodes_many
    next(stream)
    assert first.tokens == TEXT[: len(first)]


def test_drafts_are_off_where_weights_are_elsewhere(drafts: ScriptedDrafts) -> None:
    model = FakeModel()
    model.exact_rows, model.weights_elsewhere = 8, True  # type: ignore[attr-defined]
    drafting = Drafting(model)
    drafting.draft_with(drafts, None, demanded=False)
    assert drafting.drafts is None and drafting.controller is None
    with pytest.raises(UsageError, match=r"streamed or layers that are piped, .*; take auto"):
        drafting.use("lookup")
    drafting.use("auto")
    drafting.use("off")
    assert not fake_engine(model, drafts=drafts).drafting.drafts
