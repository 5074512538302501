"""Rows that were taken back from the rings of drafters were never there, as in a model's cache."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.model.dspark_drafts import DSparkDrafts
from dsv4_mlx.model.v4 import Model
from tests.cache.taken_back import Cache, Case, Reader, cases, check
from tests.engine.small_models import SMALL, load_small_models

WINDOW = SMALL.sliding_window
# An empty ring, one that fills up, one that goes round, all rows refused and all kept.
AT_EDGES = [
    Case(0, (3,), 2),
    Case(WINDOW - 2, (4,), 1),
    Case(WINDOW - 1, (1, 1, 1), 2),
    Case(2 * WINDOW - 3, (8,), 5),
    Case(2 * WINDOW, (2, 3), 0),
    Case(3 * WINDOW + 1, (5,), 5),
]


def made_up(seed: int, *shape: int) -> mx.array:
    """Features by token id, so that a token has the same ones wherever it is read."""
    values = np.random.default_rng(seed).standard_normal((SMALL.vocab_size, *shape))
    return mx.array(values.astype(np.float32))


@dataclass(frozen=True)
class MtpRows:
    """An MTP block, given streams that a model might have."""

    model: Model
    streams: mx.array

    def make_cache(self) -> Cache:
        return [self.model.mtp[0].make_cache()]

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        block, embed = self.model.mtp[0], self.model.model.embed_tokens
        (layer,) = cache
        return block.advance(self.streams[tokens], tokens, layer, embed=embed)


@dataclass(frozen=True)
class StageRows:
    """DSpark's stages, given taps that a model might have; a block of drafts comes of them."""

    drafts: DSparkDrafts
    taps: mx.array

    def make_cache(self) -> Cache:
        return self.drafts.block.make_cache()

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        self.drafts.block.absorb(self.taps[tokens], cache)
        if cache[0].offset % 8:
            return mx.zeros(1)
        return self.drafts.block.draft(int(tokens[0, -1].item()), cache).logits  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    models = load_small_models(tmp_path_factory.mktemp("models"))
    own = models["dspark"].drafts()
    assert isinstance(own, DSparkDrafts)
    width, dspark = SMALL.hidden_size, models["dspark"].config.dspark
    assert dspark is not None
    return {
        "mtp": MtpRows(models["mtp"], made_up(0, SMALL.hc_mult, width)),
        "dspark": StageRows(own, made_up(1, len(dspark.target_layer_ids) * width)),
    }


@pytest.mark.parametrize("name", ["mtp", "dspark"])
def test_rows_of_drafters_that_were_taken_back_were_never_there(
    readers: dict[str, Reader], name: str
) -> None:
    check(readers[name], AT_EDGES, after=9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mtp", "dspark"])
def test_of_100_blocks_of_drafters_no_row_taken_back_was_ever_there(
    readers: dict[str, Reader], name: str
) -> None:
    check(readers[name], cases(100, 1), alone=2)
