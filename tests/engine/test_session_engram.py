"""Sessions on a model with Engram whose rows are read from files: every way gives one reply."""

import json
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.running import Running
from dsv4_mlx.engine.session import Session
from dsv4_mlx.engine.timeline import Timeline
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.decoder_layer import DecoderLayer
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.token_map import TOKEN_MAP_FILE
from dsv4_mlx.testing.checkpoints import LONG, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.table_rows import TableFile

CONFIG = LONG.replace(
    hc_sinkhorn_iters=1,
    engram=EngramConfig((0, 2), 200, 300, max_ngram_size=4, n_heads=2, head_dim=64),
)
PROMPT = np.random.default_rng(0).integers(2, CONFIG.vocab_size, 40).tolist()
NEXT = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_checkpoint(tmp_path_factory.mktemp("engram"), CONFIG, tokenizer=False)
    token_map = [token % 200 for token in range(CONFIG.vocab_size)]
    (path / TOKEN_MAP_FILE).write_text(json.dumps(token_map))
    return path


def loaded(folder: Path, tables: str = "files") -> Model:
    return load_model(
        open_checkpoint(folder),
        dtype=mx.float32,
        numerics=Numerics.PLAIN,
        backend="cpu",
        tables=tables,
    )


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return loaded(folder)


def reply(session: Session) -> list[int]:
    return [token.id for token in session.stream(NEXT, stop_ids=(), temperature=0.0)]


@pytest.fixture(scope="module")
def expected(model: Model) -> list[int]:
    """What follows PROMPT, by one call of the whole text per token and without a cache."""
    history = list(PROMPT)
    for _ in range(NEXT):
        history.append(int(mx.argmax(model(mx.array(history)[None])[0, -1]).item()))
    return history[len(PROMPT) :]


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_chunks(model: Model, expected: list[int], chunk: int) -> None:
    session = Engine(model, prefill_chunk=chunk).session()
    session.sync(PROMPT)
    assert reply(session) == expected


def test_a_prompts_rows_are_asked_for_a_chunk_ahead(model: Model) -> None:
    running, calls, tokens = Running(model, prefill_chunk=16), [], PROMPT[:37]
    running.ask_ahead = lambda tokens, start, stop: calls.append(("ask", start, stop))
    timeline = Timeline(running)
    read = timeline._consume
    timeline._consume = lambda tokens, *a, **k: (calls.append(len(tokens)), read(tokens, *a, **k))
    timeline.sync(tokens, None, None, ())
    assert calls == [("ask", 0, 16), ("ask", 16, 32), 16, ("ask", 32, 37), 16, 5]
    calls.clear()
    timeline.sync([*tokens, 7, 8], None, None, ())  # what is in the timeline is not asked for
    assert calls == [("ask", 37, 39), 2]


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_what_is_asked_ahead_is_what_is_looked_up(folder: Path, chunk: int) -> None:
    """Every row of the prompt is there or on its way when the model wants it."""
    fresh = loaded(folder)
    session = Engine(fresh, prefill_chunk=chunk).session()
    session.sync(PROMPT)
    counts = [engram.source.counts for engram in fresh.engrams().values()]
    assert all(one.missed == 0 < one.ahead for one in counts)
    before = sum(one.missed for one in counts)
    reply(session)
    assert before < sum(one.missed for one in counts) <= NEXT * 2 * CONFIG.engram.rows_per_token
    told = session.table_reads()
    assert told["missed"] == sum(one.missed for one in counts)
    assert told["bytes"] == sum(one.nbytes for one in counts) > 0


def test_nothing_is_told_of_tables_in_memory(folder: Path) -> None:
    session = Engine(loaded(folder, "memory")).session()
    session.sync(PROMPT)
    assert session.table_reads() == {}


def test_a_replys_rows_are_asked_for_before_any_layer_works(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, calls = Engine(model).session(), []
    session.sync(PROMPT)
    request, works = TableFile.request, DecoderLayer.__call__
    ask = lambda self, rows: (calls.append("ask"), request(self, rows))[1]  # noqa: E731
    work = lambda self, *a, **k: (calls.append("work"), works(self, *a, **k))[1]  # noqa: E731
    monkeypatch.setattr(TableFile, "request", ask)
    monkeypatch.setattr(DecoderLayer, "__call__", work)
    reply(session)
    layers = CONFIG.num_hidden_layers
    assert calls == NEXT * (["ask"] * 2 + ["work"] * layers)


def test_logits_are_those_of_rows_in_memory_bit_for_bit(folder: Path, model: Model) -> None:
    """Whatever was asked ahead and kept of other texts before."""
    found = []
    for one in (loaded(folder, "memory"), model):
        session = Engine(one, prefill_chunk=7).session()
        session.sync(PROMPT)
        found.append(np.array(session.snapshot().logits))
    np.testing.assert_array_equal(*found)


@pytest.fixture
def taken_apart() -> Iterator[None]:
    """What `mx.compile` is given runs as it is, without a compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize("tables", ["memory", "files"])
def test_a_compiled_step_gives_the_same_reply(
    folder: Path, model: Model, tables: str, taken_apart: None
) -> None:
    prompt, replies = [*PROMPT, *PROMPT, *PROMPT, *PROMPT[:15]], []
    for one, compiled in ((model, False), (loaded(folder, tables), True)):
        session = Engine(one, compiled=compiled).session()
        session.sync(prompt)
        replies.append(reply(session))
    assert session._running._step.traces == NEXT
    assert replies[0] == replies[1]


def test_rewinding_and_forking(model: Model, expected: list[int]) -> None:
    session = Engine(model).session()
    session.sync(PROMPT, places=[20])
    assert reply(session) == expected
    session.sync([*PROMPT[:20], 7, 7, 7])
    assert session.rewind(20) == 20
    session.sync(PROMPT)
    other = session.fork()
    assert reply(session) == reply(other) == expected


def test_saving_and_loading(model: Model, expected: list[int], tmp_path: Path) -> None:
    engine = Engine(model)
    session = engine.session()
    session.sync(PROMPT, places=[20])
    session.save(tmp_path / "cache")
    loaded = engine.session()
    loaded.load(tmp_path / "cache")
    assert reply(loaded) == expected
    assert loaded.rewind(20) == 20
    loaded.sync(PROMPT)
    assert reply(loaded) == expected
