"""Sessions whose tokens are stepped by replayed graphs: as without, whatever is done with them."""

import gc
import shutil
import weakref
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.running import steps_are_compiled
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import UsageError
from dsv4_mlx.model import compiled
from dsv4_mlx.model.compiled import CompiledStep
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.scripted.fake import FakeModel
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from tests.engine import small_models
from tests.model import replays, running

SMALL = small_models.SMALL.replace(
    num_hidden_layers=3, index_topk=16, compress_ratios=(0, 4, 128, 0)
)
PROMPT = [(7 * i * i + 3 * i) % 500 for i in range(250)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("small"), SMALL, tokenizer=False)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return running.load(folder)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are recorded and replayed, without a compiler."""
    monkeypatch.setattr(compiled.mx, "compile", replays.recorded)


KINDS = ("no window closes", "one of 4 tokens does", "those of 4 and 128 tokens do")


def step_of(engine: Engine) -> CompiledStep:
    step = engine._step
    assert isinstance(step, CompiledStep)
    return step


class Told:
    """Everything that sessions of an engine say of a walk through all that one can do with them."""

    def __init__(self, engine: Engine, prompt: list[int], file: Path) -> None:
        self.ids: list[list[int]] = []
        self.states: list[np.ndarray] = []
        session = engine.session()
        session.sync(prompt)
        self.session, self.file, self.engine = session, file, engine

    def walk(self, count: int) -> "Told":
        session = self.session
        self.go_on(session, count)
        here = session.snapshot()
        self.go_on(session, count)
        session.restore(here)
        self.go_on(session, count)
        self.forks(count)
        session.restore(here)
        session.hold()
        self.go_on(session, 2)
        session.rewind(here.offset)
        self.go_on(session, 3)
        session.save(self.file)
        other = self.engine.session()
        other.load(self.file)
        self.go_on(other, count)
        self.batch(session, other)
        return self

    def forks(self, count: int) -> None:
        """Three timelines of one beginning: each closes windows that another sees or saw."""
        twin, third = self.session.fork(), self.session.fork()
        self.go_on(twin, count)
        third.sync([*third.tokens, 5])
        self.go_on(third, count)
        self.go_on(self.session, count)
        self.go_on(twin, 4)
        self.go_on(third, 4)

    def batch(self, *sessions: Session) -> None:
        """Both as rows of one batch, then the first row alone again."""
        model, rows = self.engine.model, [one._timeline.cache for one in sessions]
        merged = [type(first).merge([first, *rest]) for first, *rest in zip(*rows, strict=True)]
        both = model(mx.array([[7], [8]]), merged)[:, -1]
        alone = [layer.extract(0) for layer in merged]
        after = self.engine.next_logits(mx.array([[9]]), alone)
        self.states += [np.array(both), np.array(after)]

    def go_on(self, session: Session, count: int) -> None:
        self.ids.append([token.id for token in session.stream(count, stop_ids=())])
        self.states += [np.array(array) for array in state(session)]


def state(session: Session) -> list[mx.array]:
    """What persists of a timeline: rings, and the rows that it sees."""
    cache = session._timeline.cache
    return [array for layer in cache for row in layer.rows for array in row.arrays().values()]


def assert_same(one: Told, other: Told) -> None:
    assert one.ids == other.ids
    assert len(one.states) == len(other.states)
    for ours, theirs in zip(one.states, other.states, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_every_operation_gives_what_it_gives_without(
    model: Model, replayed: None, tmp_path: Path
) -> None:
    without = Told(Engine(model, compiled=False), PROMPT, tmp_path / "a").walk(5)
    engine = Engine(model, compiled=True)
    assert_same(Told(engine, PROMPT, tmp_path / "b").walk(5), without)
    assert step_of(engine).traces == len(KINDS)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="mx.compile needs g++ on a CPU")
def test_hundreds_of_tokens_by_mlx_own_compiler(tmp_path: Path) -> None:
    """From 460 tokens on: indexers begin to select at 516, and at 1,028 the buffers of entries
    grow, so that each of three kinds of tokens has a graph before and after the first, and two of
    them one after the second; no window of 128 closes from there on.
    """
    nano, prompt = running.load(running.NANO), [7 * i % 500 + 3 for i in range(460)]
    without = Told(Engine(nano, compiled=False), prompt, tmp_path / "a")
    engine = Engine(nano, compiled=True)
    ours = Told(engine, prompt, tmp_path / "b")
    for told in (without, ours):
        told.go_on(told.session, 600)
        print(told.session.tokens[-10:], flush=True)
        told.walk(8)
    print(step_of(engine).traces, flush=True)
    assert_same(ours, without)
    assert step_of(engine).traces == 2 * len(KINDS) + 2


@pytest.fixture
def ready(model: Model, replayed: None) -> tuple[Engine, Session]:
    """An engine with a step, and a session of it that has read the prompt."""
    engine = Engine(model, compiled=True)
    session = engine.session()
    session.sync(PROMPT)
    return engine, session


def ids(session: Session, count: int) -> list[int]:
    return [token.id for token in session.stream(count, stop_ids=())]


def test_a_graph_that_could_not_be_built_is_built_again(
    ready: tuple[Engine, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, session = ready
    expected = ids(session.fork(), 1)
    step_of(engine)._graphs.clear()
    with monkeypatch.context() as patched:
        patched.setattr(Model, "logits", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ids(session, 1)
    assert session.tokens == PROMPT and not step_of(engine)._graphs
    assert ids(session, 1) == expected


def test_a_reply_is_of_the_weights_that_there_are_when_it_begins(
    folder: Path, replayed: None
) -> None:
    model = running.load(folder)
    engine = Engine(model, compiled=True)
    for _ in range(2):
        session, other = engine.session(), Engine(model, compiled=False).session()
        for one in (session, other):
            one.sync(PROMPT)
        built = step_of(engine).traces
        twin = session.fork()
        assert ids(session, 1) == ids(other, 1)
        np.testing.assert_allclose(
            *(np.array(one._timeline.logits) for one in (session, other)), rtol=1e-4, atol=1e-4
        )
        ids(twin, 1)  # of the same weights as the reply before
        assert step_of(engine).traces == built + 1
        model.lm_head.weight = -model.lm_head.weight


def test_old_graphs_are_let_go(
    ready: tuple[Engine, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "MOST_GRAPHS", 1)
    engine, session = ready
    ids(session, 4)  # no window closes, one of four tokens does
    assert len(step_of(engine)._graphs) == 1
    assert step_of(engine).traces == 3


def test_a_model_is_let_go_with_its_engine(folder: Path) -> None:
    """Its weights are freed at once: no circle holds it, through graphs neither."""
    mx.disable_compile()
    gc.disable()
    try:
        model = running.load(folder)
        engine = Engine(model, compiled=True)
        session = engine.session()
        session.sync(PROMPT)
        ids(session, 2)
        assert step_of(engine)._graphs
        gone = weakref.ref(model)
        del model, engine, session
        assert gone() is None
    finally:
        gc.enable()
        mx.enable_compile()


def test_tokens_are_compiled_on_gpus_unless_somebody_says_no(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLX_DISABLE_COMPILE", raising=False)
    assert steps_are_compiled("metal") and steps_are_compiled("cuda")
    assert not steps_are_compiled("cpu")
    assert not Engine(model).compiled
    monkeypatch.setattr(Model, "kernel_plan", lambda _: {"backend": "metal"})
    assert Engine(model).compiled
    assert not Engine(model, compiled=False).compiled
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    assert not steps_are_compiled("metal") and not Engine(model).compiled


def test_a_model_without_a_step_takes_none() -> None:
    assert not Engine(FakeModel()).compiled
    with pytest.raises(UsageError, match="compiled is True"):
        Engine(FakeModel(), compiled=True)
