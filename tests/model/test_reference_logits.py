"""The model without roundings is transformers, from numbers recorded in tests/golden/logits."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dsv4_mlx.cache import load as load_cache
from dsv4_mlx.cache import save as save_cache
from dsv4_mlx.model.v4 import Model
from tests.model import running


class Case:
    """A checkpoint, its model and transformers' rows."""

    def __init__(self, name: str, folder: Path):
        self.model: Model = running.load(folder)
        self.recorded = running.recorded(name, folder)
        self.tokens = self.recorded["tokens"]

    def check(self, logits: np.ndarray, first: int = 0) -> None:
        """Compare logits [S, V] of the tokens from position `first` on with every recorded row."""
        rows = self.recorded["rows"]
        kept = (rows >= first) & (rows < first + len(logits))
        assert kept.any()
        ours = logits[rows[kept] - first]
        expected = self.recorded["logits"][kept]
        running.assert_parity(expected, ours[:, : expected.shape[1]])
        normaliser = np.logaddexp.reduce(ours.astype(np.float64), axis=1)
        known = self.recorded["normaliser"][kept]
        np.testing.assert_allclose(normaliser, known, rtol=1e-6, atol=2e-5)
        best = np.take_along_axis(ours, self.recorded["best"][kept][:, None], axis=1)[:, 0]
        np.testing.assert_allclose(best, ours.max(axis=1), rtol=0, atol=2e-4)


@pytest.fixture(scope="module", params=running.CHECKPOINTS)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    folder = running.checkpoint_folder(request.param, tmp_path_factory.mktemp("checkpoint"))
    yield Case(request.param, folder)


# In the plain suite the smallest, where one call and single tokens after a prompt are all three's.
SMALLEST = pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name != "tiny"))
        for name in running.CHECKPOINTS
    ],
    indirect=True,
)


# The smallest in the slow suite and all of them in soak.
LONG = pytest.mark.parametrize(
    "case",
    [
        pytest.param(one, marks=pytest.mark.slow if one == "tiny" else pytest.mark.soak)
        for one in running.CHECKPOINTS
    ],
    indirect=True,
)


@pytest.mark.parametrize("length", [7, 130, 300])
def test_one_call(case: Case, length: int) -> None:
    case.check(running.run(case.model, case.tokens[:length]))


@SMALLEST
@pytest.mark.parametrize("length", [768, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_long_prompt_in_chunks(case: Case, length: int) -> None:
    case.check(running.run(case.model, case.tokens[:length], 129))


@SMALLEST
def test_token_by_token(case: Case) -> None:
    """From the first token, then through the first HCA entry and as many CSA entries as a tiny
    top-k chooses from."""
    case.check(running.run(case.model, case.tokens[:134], [1] * 9 + [113] + [1] * 12))


@LONG
def test_token_by_token_all_the_way(case: Case) -> None:
    case.check(running.run(case.model, case.tokens[:132], 1))


def test_token_by_token_after_a_prompt(case: Case) -> None:
    first = 250  # windows of 4 end at 252, 256 and 260, the second one of 128 at 256
    logits = running.run(case.model, case.tokens[:300], [first] + [1] * 12 + [38])
    case.check(logits[first:], first)


@SMALLEST
def test_a_ragged_batch(case: Case) -> None:
    prompts = [case.tokens[:length] for length in running.BATCH]
    for logits in running.run_batch(case.model, prompts):
        case.check(logits)


@SMALLEST
@pytest.mark.parametrize("step", [31, pytest.param(7, marks=pytest.mark.slow)])
def test_saving_and_loading_every_few_tokens(case: Case, tmp_path: Path, step: int) -> None:
    """At every remainder of a window of 4 tokens, before and after those of 128 end."""
    path, cache, logits = tmp_path / "cache", case.model.make_cache(), []
    for start in range(0, 301, step):
        tokens = case.tokens[:start].tolist()
        save_cache(path, cache, fingerprint="tiny", tokens=tokens)
        cache, *_ = load_cache(path, model=case.model, fingerprint="tiny")
        logits.append(running.feed(case.model, cache, [case.tokens[start : start + step]]))
    case.check(np.concatenate(logits))


@LONG
@pytest.mark.parametrize("size", running.CHUNKS)
def test_every_chunk_size(case: Case, size: int) -> None:
    """The small sizes where windows end, four times; test_chunking.py has them all the way."""
    sizes = running.around_windows(size, 517)
    case.check(running.run(case.model, case.tokens[:517], sizes))


@pytest.mark.slow
def test_a_long_prompt_in_one_call(case: Case) -> None:
    case.check(running.run(case.model, case.tokens))
