"""Sessions on a model with Engram whose rows are read from files: every way gives one reply."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.token_map import TOKEN_MAP_FILE
from dsv4_mlx.testing.checkpoints import LONG, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint

CONFIG = LONG.replace(
    engram=EngramConfig((0, 2), 200, 300, max_ngram_size=4, n_heads=2, head_dim=64)
)
PROMPT = np.random.default_rng(0).integers(2, CONFIG.vocab_size, 40).tolist()
NEXT = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("engram"), CONFIG, tokenizer=False)
    token_map = [token % 200 for token in range(CONFIG.vocab_size)]
    (folder / TOKEN_MAP_FILE).write_text(json.dumps(token_map))
    return load_model(
        open_checkpoint(folder),
        dtype=mx.float32,
        numerics=Numerics.PLAIN,
        backend="cpu",
        tables="files",
    )


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
