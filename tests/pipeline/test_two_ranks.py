"""A model on two ranks has the bits of the model on one, whatever a session does with it."""

import json
from pathlib import Path

import numpy as np
import pytest

from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.pipeline.messages import PipeOperation, understood
from dsv4_mlx.pipeline.split import stored_bytes
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.testing.checkpoints import TINY, TINY512, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from tests.engine.small_models import SMALL
from tests.pipeline import scenarios
from tests.pipeline.two_ranks import run

ENGRAM = TINY.replace(
    engram=EngramConfig((0, 4), 441, 300, max_ngram_size=4, n_heads=2, head_dim=64)
)
"""With a table of N-grams on each rank."""
CONFIG = SMALL.replace(num_hidden_layers=3, num_hash_layers=1, compress_ratios=(4, 128, 4, 0))


class OnOneRank:
    """What one does with batches, for the cache of a model on one machine."""

    def prepare(self, cache: list[LayerCache], lengths, *, left: bool, padded: int) -> None:
        padding = [padded - length for length in lengths]
        told = {"left_padding": padding}
        if not left:
            told = {"lengths": lengths, "right_padding": padding}
        for layer in cache:
            layer.prepare(**told)

    def finalize(self, cache: list[LayerCache]) -> None:
        for layer in cache:
            layer.finalize()

    def merge(self, caches: list[list[LayerCache]]) -> list[LayerCache]:
        return [LayerCache.merge(layers) for layers in zip(*caches, strict=True)]

    def extract(self, cache: list[LayerCache], row: int) -> list[LayerCache]:
        return [layer.extract(row) for layer in cache]


class Both:
    """A scenario on one process and on two."""

    def __init__(self, folder: Path, out: Path, numerics: str) -> None:
        self.folder, self.out = folder, out
        self.model = load_model(
            open_checkpoint(folder), backend="cpu", numerics=Numerics(numerics), drafts=False
        )
        self.alone = scenarios.session_script(self.model, out)
        (out / "session.cache").rename(out / "one.cache")
        self.rank0, self.rank1 = run("everything", folder, out, numerics)
        self.logits = np.load(out / "logits.npz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("small"), CONFIG)


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(folder, tmp_path_factory.mktemp("official"), "official")


def require_same_logits(both: Both) -> None:
    """Of prompts whole and in chunks, of the tokens after them, and of batches."""
    alone = {f"after{n}": scenarios.logits_after(both.model, n) for n in (1, 40, 150)}
    alone["chunked"] = scenarios.logits_after(both.model, 150, scenarios.CHUNK)
    alone["ragged"] = scenarios.ragged(both.model, OnOneRank())
    alone["ragged left"] = scenarios.ragged(both.model, OnOneRank(), left=True)
    alone["merged"] = scenarios.merged(both.model, OnOneRank())
    assert set(both.logits.files) == set(alone)
    for name, expected in alone.items():
        assert np.array_equal(both.logits[name], expected), name
    # Of three tokens: all values are bfloat16's under the official numerics.
    bytes_each = 2 if both.model.numerics is Numerics.OFFICIAL else 4
    config = both.model.config
    assert both.rank0["stream_bytes"] == 3 * config.hc_mult * config.hidden_size * bytes_each


def test_logits_have_the_same_bits(both: Both) -> None:
    require_same_logits(both)


def require_same_script(both: Both) -> None:
    """Ids, log-probabilities, what was read, places, bytes, and the notes of the other's file."""
    for name in ("drawn", "syncs", "places", "sizes", "compact", "notes"):
        assert both.rank0[name] == json.loads(json.dumps(both.alone[name])), name
    assert both.rank0["notes"] == {"who": "both"}


def test_a_session_does_the_same(both: Both) -> None:
    require_same_script(both)


def test_a_session_of_two_ranks_goes_on_alone(both: Both) -> None:
    session = Engine(both.model, prefill_chunk=scenarios.CHUNK).session()
    assert session.load(both.out / "session.cache") == {"who": "both"}
    alone = Engine(both.model, prefill_chunk=scenarios.CHUNK).session()
    alone.load(both.out / "one.cache")
    assert (both.out / "session.cache").read_bytes() == (both.out / "one.cache").read_bytes()
    assert [t.id for t in session.stream(3)] == [t.id for t in alone.stream(3)]


def test_each_rank_reads_its_own_layers_and_nothing_else(both: Both) -> None:
    plan = plan_parameters(open_checkpoint(both.folder)).bare()
    read = [rank["read"] for rank in (both.rank0, both.rank1)]
    assert not read[0].keys() & read[1].keys()
    assert sum(map(sum, (one.values() for one in read))) == stored_bytes(plan)
    for rank, one in zip((both.rank0, both.rank1), read, strict=True):
        assert sum(one.values()) == rank["bytes_loaded"]
    assert both.rank0["pipeline"] == {
        "ranks": 2,
        "layers": [both.rank0["layers"], both.rank1["layers"]],
        "bytes_loaded": [both.rank0["bytes_loaded"], both.rank1["bytes_loaded"]],
    }
    assert both.rank1["layers"][0] == 0 and both.rank0["layers"][1] == CONFIG.num_hidden_layers
    assert both.rank1["layers"][1] == both.rank0["layers"][0]


def test_the_worker_has_no_head_and_sees_ids_alone(both: Both) -> None:
    assert {"lm_head", "norm", "hc_head"}.isdisjoint(both.rank1["parameters"])
    assert "embed_tokens" not in both.rank0["parameters"]
    dropped = set[int]()
    for message in map(bytes.fromhex, both.rank0["sent"]):
        if message.startswith(b"["):  # the list of arrays of a session's file
            continue
        operation, numbers = understood(message)
        if operation is PipeOperation.CALL:
            batch, length, *ids = numbers[1:]
            assert len(ids) == batch * length and all(0 <= i < CONFIG.vocab_size for i in ids)
        elif operation is PipeOperation.DROP:  # as many as there were, each once
            assert len(numbers) == len(set(numbers)) and dropped.isdisjoint(numbers)
            dropped.update(numbers)
        else:
            assert len(numbers) < 16


def test_the_worker_frees_what_rank_0_frees_before_its_next_step(both: Both) -> None:
    assert max(map(tuple, both.rank1["held"])) > (2, 2)
    caches, snapshots = both.rank1["held"][-1]
    assert (caches, snapshots) == (1, 0)


def test_the_worker_reads_a_chunk_while_rank_0_reads_the_one_before(both: Both) -> None:
    chunks = -(-150 // scenarios.CHUNK)
    assert both.rank0["chunks"] == both.rank0["steps"] == [chunks, chunks - 1]


def test_a_step_that_fails_there_is_a_sentence_here(both: Both) -> None:
    assert both.rank0["failure"].startswith("rank 1 (here) failed: KeyError")


def test_a_reading_that_is_stopped_goes_on(both: Both) -> None:
    session = Engine(both.model, prefill_chunk=scenarios.CHUNK).session()
    first, second, drawn = both.rank0["stopped"]
    assert first == [0, scenarios.CHUNK, True]
    assert second == [scenarios.CHUNK, 150 - scenarios.CHUNK]
    session.sync(scenarios.prompt(150))
    assert drawn == [[t.id, t.logprob] for t in session.stream(3, stop_ids=())]


@pytest.mark.slow
@pytest.mark.parametrize("numerics", ["official", "plain"])
@pytest.mark.parametrize("config", [TINY, TINY512, ENGRAM], ids=["tiny", "tiny512", "engram"])
def test_every_kind_of_layer_and_both_numerics(
    config: DeepseekV4Config, numerics: str, tmp_path: Path
) -> None:
    two = Both(write_tiny_checkpoint(tmp_path / "model", config), tmp_path, numerics)
    require_same_logits(two)
    require_same_script(two)
