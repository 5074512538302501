"""Sessions on a real tiny model: every way to a timeline gives the same next tokens."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import CacheError
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.engine import small_models

SMALL = small_models.SMALL.replace(
    num_hidden_layers=3, index_topk=16, compress_ratios=(0, 4, 128, 0)
)
PROMPT = [(7 * i * i + 3 * i) % 500 for i in range(150)]
NEXT = 12


def load_small(folder: Path, numerics: Numerics = Numerics.PLAIN) -> Model:
    return load_model(open_checkpoint(folder), dtype=mx.float32, numerics=numerics, backend="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small")
    write_tiny_checkpoint(path, SMALL)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_small(folder)


def ids(session: Session, count: int = NEXT) -> list[int]:
    return [token.id for token in session.stream(count, stop_ids=())]


@pytest.fixture(scope="module")
def reply(model: Model) -> list[int]:
    """What follows PROMPT, by one call of the whole text per token and without a cache."""
    history = list(PROMPT)
    for _ in range(NEXT):
        history.append(int(mx.argmax(model(mx.array(history)[None])[0, -1]).item()))
    return history[len(PROMPT) :]


def test_the_same_prompt_again_has_the_same_bits(model: Model) -> None:
    """From a place before it, its last token would be read alone and might have others."""
    session = Engine(model, prefill_chunk=64).session()
    session.sync(PROMPT)
    first = np.array(session.snapshot().logits)
    said = ids(session)
    assert session.sync(PROMPT).read == 0
    np.testing.assert_array_equal(np.array(session.snapshot().logits), first)
    assert ids(session) == said


@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.slow), 37, 128, 512])
def test_chunks(model: Model, reply: list[int], chunk: int) -> None:
    session = Engine(model, prefill_chunk=chunk).session()
    session.sync(PROMPT)
    assert ids(session) == reply


def test_returning_to_a_turn(model: Model, reply: list[int]) -> None:
    session = Engine(model).session()
    session.sync(PROMPT)
    ids(session)
    session.sync([*session.tokens, 5, 6, 7])
    ids(session)
    assert session.sync(PROMPT).read == 1
    assert ids(session) == reply


def test_restore_undoes_other_futures(model: Model, reply: list[int]) -> None:
    session = Engine(model).session()
    session.sync(PROMPT)
    here = session.snapshot()
    session.sync([*PROMPT, *range(5, 40)])
    session.restore(here)
    assert ids(session) == reply
    session.sync([9, 8, 7])
    session.restore(here)
    assert ids(session) == reply


def test_forks(model: Model, reply: list[int]) -> None:
    session = Engine(model).session()
    session.sync(PROMPT)
    twin = session.fork()
    session.sync([*PROMPT, *range(5, 40)])
    assert ids(twin) == reply
    assert session.tokens[:-1] == [*PROMPT, *range(5, 39)]


def test_save_and_load(model: Model, reply: list[int], tmp_path: Path) -> None:
    session = Engine(model).session()
    session.sync(PROMPT)
    first = ids(session, 5)
    session.save(tmp_path / "a.session", {"title": "first"})
    other = Engine(model).session()
    assert other.load(tmp_path / "a.session") == {"title": "first"}
    assert first + ids(other, NEXT - 5) == reply


def test_places_survive_save_and_load(model: Model, reply: list[int], tmp_path: Path) -> None:
    session = Engine(model).session()
    session.sync([*PROMPT, *range(5, 40)], places=[70, len(PROMPT) - 1])
    ids(session, 5)
    session.save(tmp_path / "a.session")
    session.save_place(tmp_path / "b.session", 70)
    for name, reused in (("a.session", len(PROMPT) - 1), ("b.session", 70)):
        other = Engine(model).session()
        other.load(tmp_path / name)
        assert other.sync(PROMPT).reused == reused
        assert ids(other) == reply


def test_sizes_are_those_of_the_arrays(model: Model) -> None:
    session = Engine(model).session()
    session.sync(PROMPT)
    sizes = session.sizes()
    assert sizes.window + sizes.compressed + sizes.index == sum(
        a.nbytes for a in session._timeline.arrays()
    )
    assert 0 < sizes.index < sizes.compressed


def test_a_file_of_other_weights_is_refused(model: Model, tmp_path: Path) -> None:
    session = Engine(model).session()
    session.sync([1, 2, 3])
    session.save(tmp_path / "a.session")
    write_tiny_checkpoint(tmp_path / "other", SMALL, seed=1)
    other = Engine(load_small(tmp_path / "other")).session()
    other.sync([4, 5])
    with pytest.raises(CacheError):
        other.load(tmp_path / "a.session")
    assert other.tokens == [4, 5]
    assert len(ids(other, 2)) == 2


def test_a_damaged_file_is_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "a.session"
    session = Engine(model).session()
    session.sync([1, 2, 3])
    session.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CacheError, match="damaged"):
        session.load(path)
    assert session.tokens == [1, 2, 3]


def test_logprobs_are_the_models_own(model: Model) -> None:
    session = Engine(model).session()
    session.sync(PROMPT)
    (token,) = session.stream(1, temperature=1.5, seed=3)
    logits = np.array(model(mx.array(PROMPT)[None])[0, -1], dtype=np.float64)
    wanted = logits[token.id] - np.log(np.exp(logits).sum())
    assert token.logprob == pytest.approx(wanted, abs=1e-3)


def test_a_whole_life_on_one_worker_thread(folder: Path, reply: list[int]) -> None:
    def life() -> list[int]:
        session = Engine(load_small(folder)).session()
        session.sync(PROMPT)
        return ids(session)

    with ThreadPoolExecutor(1) as worker:
        assert worker.submit(life).result() == reply


def active_bytes_while(stream: Iterator[object], at: tuple[int, ...]) -> list[int]:
    """Active memory after that many tokens of the stream."""
    found = []
    for number, _ in enumerate(stream, 1):
        if number in at:
            mx.synchronize()
            found.append(mx.get_active_memory())
    return found


# Both kinds of entries and as little else as possible: memory is watched, not numbers.
LEAN = TINY.replace(
    num_hidden_layers=2,
    num_hash_layers=0,
    n_routed_experts=2,
    hc_mult=2,
    hc_sinkhorn_iters=1,
    compress_ratios=(4, 128),
    num_nextn_predict_layers=0,
    max_position_embeddings=1 << 16,
)


def check_flat_memory(folder: Path, tokens: int) -> None:
    write_tiny_checkpoint(folder, LEAN)
    session = Engine(load_small(folder, Numerics.OFFICIAL)).session()
    session.sync([1, 2, 3])
    settled = tokens // 4
    stream = session.stream(tokens, stop_ids=())
    before, after = active_bytes_while(stream, (settled, tokens))
    grown = Costs(LEAN).kv_bytes(tokens) - Costs(LEAN).kv_bytes(settled)
    # Buffers grow by a 64th or 256 rows, and a step's own arrays come and go. One row of
    # hidden size kept per token would already be more than this.
    spare = Costs(LEAN).kv_bytes(tokens) // 4 + 300_000
    assert after - before <= grown + spare


@pytest.mark.parametrize(
    "tokens",
    [
        200,  # 2,000 bytes more than the config says for each token would be found
        pytest.param(2000, marks=pytest.mark.slow),  # 200 bytes
        pytest.param(20000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),  # 20 bytes
    ],
)
def test_memory_stays_flat(tmp_path: Path, tokens: int) -> None:
    check_flat_memory(tmp_path, tokens)
