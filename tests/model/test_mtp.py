"""The draft block is the oracle's, in one call and token by token."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.model.layers import Embedding, Linear
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.spellings import keys_of
from tests.model import running
from tests.oracle import v4_numpy

LENGTH = 70  # more than two windows of the tiny checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return running.checkpoint_folder("tiny", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module", params=list(Numerics), ids=lambda numerics: numerics.name)
def model(request: pytest.FixtureRequest, folder: Path) -> Model:
    return running.load(folder, request.param)


def ends(model: Model) -> dict[str, Linear | Embedding]:
    """The backbone's layers before and after a draft block."""
    return {"embed": model.model.embed_tokens, "head": model.lm_head}


class Draft:
    """Random streams and next tokens, and the oracle's logits for them."""

    def __init__(self, model: Model, folder: Path):
        config = keys_of(model.config)
        rng = np.random.default_rng(2)
        streams = rng.standard_normal((LENGTH, config["hc_mult"], config["hidden_size"]))
        self.streams = v4_numpy.round_bf16(streams)
        self.tokens = rng.integers(0, config["vocab_size"], LENGTH)
        self.official = model.numerics is Numerics.OFFICIAL
        weights = v4_numpy.dequantize_checkpoint(folder)
        self.expected = v4_numpy.mtp_forward(
            config, weights, self.streams, self.tokens, official=self.official
        )

    def predict(self, model: Model, sizes: list[int] | None) -> np.ndarray:
        """The block's logits [S, V] in one call without a cache or in calls of `sizes`."""
        block, streams = model.mtp[0], mx.array(self.streams.astype(np.float32))[None]
        tokens = mx.array(self.tokens)[None]
        if sizes is None:
            return np.array(block.predict(streams, tokens, **ends(model))[0])
        cache, start, parts = block.make_cache(), 0, []
        for size in sizes:
            span = slice(start, start + size)
            logits = block.predict(streams[:, span], tokens[:, span], cache, **ends(model))
            parts.append(np.array(logits[0]))
            start += size
        return np.concatenate(parts)

    def check(self, logits: np.ndarray) -> None:
        check(self.expected, logits, self.official)


def check(expected: v4_numpy.Result, logits: np.ndarray, official: bool) -> None:
    """The block's logits [S, V] are the oracle's for the same streams and tokens."""
    errors = np.abs(logits - expected.logits).max(axis=1)
    if not official:
        assert errors.max() <= 1e-4
        return
    # A row whose experts hang on a rounding may differ; a fault shows in all of them.
    clear = expected.layers[0].expert_margins > 1e-2
    assert clear.mean() >= 0.5
    relative = errors / np.abs(expected.logits).max(axis=1)
    assert relative[clear].max() <= 2.0**-5
    assert np.median(relative) <= 2.0**-8


@pytest.fixture(scope="module")
def draft(model: Model, folder: Path) -> Draft:
    return Draft(model, folder)


@pytest.mark.parametrize(
    "sizes",
    [None, [LENGTH], [1] * LENGTH, [33, 1, 1, 35]],
    ids=["no cache", "one call", "token by token", "chunks"],
)
def test_draft_logits_are_the_oracles(model: Model, draft: Draft, sizes: list[int] | None) -> None:
    draft.check(draft.predict(model, sizes))


def test_draft_continues_the_models_own_streams(model: Model, folder: Path) -> None:
    """Streams at t and the token at t + 1 give the logits the oracle has for t + 2.

    With roundings from the model's streams alone: by the last layer the oracle's are others, where
    a rounding chose another expert."""
    tokens = np.random.default_rng(4).integers(0, model.config.vocab_size, 41)
    config, weights = keys_of(model.config), v4_numpy.dequantize_checkpoint(folder)
    official = model.numerics is Numerics.OFFICIAL
    streams = model.streams(mx.array(tokens[:-1])[None])
    following = mx.array(tokens[1:])[None]
    ours = np.array(model.mtp[0].predict(streams, following, **ends(model))[0])
    given = np.array(streams[0], np.float64)
    if not official:
        given = v4_numpy.forward(config, weights, tokens[:-1], official=False).streams[-1]
    expected = v4_numpy.mtp_forward(config, weights, given, tokens[1:], official=official)
    check(expected, ours, official)
