"""The model with the official roundings is the float64 oracle written from the paper alone.

A choice of experts or entries that hangs on the last place would make everything after it
arbitrary, so the model runs with the oracle's choices; test_oracle_choices.py compares its own.
"""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.cache import LayerCache
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.spellings import keys_of
from metal_kernels.router.reference import expert_scores, normalised_weights
from tests.model import running
from tests.oracle import v4_numpy
from tests.oracle.v4_numpy import BlockResult

LENGTH = 300
LAYER_BOUND = 2.0**-7
EARLY = 32  # tokens
NUDGES, NUDGE = 4, 1e-6  # as float32 sums of a few hundred terms differ from float64 ones


class Case:
    """A checkpoint in the model and, run once, in the oracle."""

    def __init__(self, folder: Path, tokens: list[int] | None = None):
        self.model: Model = running.load(folder, Numerics.OFFICIAL)
        self.config = keys_of(self.model.config)
        self.weights = v4_numpy.dequantize_checkpoint(folder)
        rng = np.random.default_rng(3)
        self.tokens = rng.integers(0, self.config["vocab_size"], LENGTH)
        if tokens is not None:
            self.tokens = np.array(tokens)
        self.oracle = v4_numpy.forward(self.config, self.weights, self.tokens, official=True)
        embedded = self.weights["embed.weight"][self.tokens]
        first = np.repeat(embedded[:, None], self.config["hc_mult"], axis=1)
        self.inputs = [first, *self.oracle.streams[:-1]]

    def run_layer(self, number: int, streams: mx.array, cache: LayerCache) -> mx.array:
        """Streams [1, S, N, D] through one layer from its cache's position on."""
        first = cache.offset
        tokens = mx.array(self.tokens[first : first + streams.shape[1]])[None]
        return self.model.layers[number](streams, tokens, cache)

    def new_cache(self, number: int) -> LayerCache:
        return self.model.make_cache()[number]


@pytest.fixture(scope="module", params=running.TINY_CONFIGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = running.checkpoint_folder(request.param, tmp_path_factory.mktemp("checkpoint"))
    return Case(folder)


class Chosen:
    """What the model's own router and indexer chose while the oracle's choices ran, and from what
    the router chose."""

    def __init__(self) -> None:
        self._experts: list[np.ndarray] = []
        self._routed: list[np.ndarray] = []
        self.entries: list[np.ndarray] = []  # per query, ascending

    @property
    def experts(self) -> np.ndarray:
        """[S, k], ascending."""
        return np.concatenate(self._experts)

    @property
    def routed(self) -> np.ndarray:
        """[S, D], what the router was given."""
        return np.concatenate(self._routed)


@contextmanager
def oracle_choices(model: Model, block: BlockResult):
    """Let every layer use the experts and entries of `block`; yields the model's own choices."""
    ops, chosen, position = model._plan.ops, Chosen(), 0
    own_router, own_topk = ops.router, ops.index_topk

    def router(x, weight, bias, *, k, scaling):
        nonlocal position
        experts, _ = own_router(x, weight, bias, k=k, scaling=scaling)
        chosen._experts.append(np.array(experts))
        chosen._routed.append(np.array(x))
        forced = mx.array(block.experts[position : position + len(x)].astype(np.uint32))
        position += len(x)
        return forced, normalised_weights(expert_scores(x, weight), forced, scaling)

    def index_topk(q, head_weights, keys, *, first_position, **options):
        own = own_topk(q, head_weights, keys, first_position=first_position, **options)
        chosen.entries += [row[row >= 0] for row in np.array(own[0])]
        rows = block.index_selected[first_position : first_position + q.shape[1]]
        forced = [np.pad(r, (0, own.shape[-1] - len(r)), constant_values=-1) for r in rows]
        return mx.array(np.stack(forced).astype(np.int32))[None]

    ops.router, ops.index_topk = router, index_topk
    try:
        yield chosen
    finally:
        ops.router, ops.index_topk = own_router, own_topk


def relative_errors(ours: mx.array, expected: np.ndarray) -> np.ndarray:
    """Per token: |difference| / |expected| over all streams, [1, S, N, D] and [S, N, D] -> [S]."""
    difference = np.array(ours[0]).astype(np.float64) - expected
    size = len(expected)
    norms = [np.linalg.norm(x.reshape(size, -1), axis=1) for x in (difference, expected)]
    return norms[0] / norms[1]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("chunk", [LENGTH, 37])
def test_every_layer_given_the_oracles_streams(case: Case, number: int, chunk: int) -> None:
    block, cache = case.oracle.layers[number], case.new_cache(number)
    streams = mx.array(case.inputs[number].astype(np.float32))[None]
    with oracle_choices(case.model, block):
        outputs = [
            case.run_layer(number, streams[:, start : start + chunk], cache)
            for start in range(0, LENGTH, chunk)
        ]
        errors = relative_errors(mx.concatenate(outputs, axis=1), block.streams)
    assert errors.max() <= LAYER_BOUND


@pytest.mark.parametrize(
    "case", ["tiny", pytest.param("tiny512", marks=pytest.mark.slow)], indirect=True
)
@pytest.mark.parametrize("number", range(6))
def test_most_early_tokens_are_the_oracles_bit_for_bit(case: Case, number: int) -> None:
    """A missing or an extra rounding moves nearly every token of every text. Float32 noise rounds a
    value the other way now and then; where that is a key, all later tokens have it, so this looks
    at the first tokens of many texts, and at the median: no single key decides it."""
    equal = []
    for first in range(0, LENGTH - EARLY + 1, EARLY):
        streams, tokens = (a[first : first + EARLY] for a in (case.inputs[number], case.tokens))
        block = v4_numpy.run_block(
            case.config, case.weights, number, streams, tokens, official=True
        )
        inputs = mx.array(streams.astype(np.float32))[None], mx.array(tokens)[None]
        with oracle_choices(case.model, block):
            ours = case.model.layers[number](*inputs, case.new_cache(number))
            equal.append((relative_errors(ours, block.streams) == 0).mean())
    print(f"layer {number}: equal shares {np.round(np.sort(equal), 2)}")
    assert np.median(equal) >= 0.25


def forced_model_logits(case: Case, run: Callable[[int, mx.array], mx.array]) -> np.ndarray:
    """Logits [S, V] of the whole model on its own streams with the oracle's choices."""
    streams = mx.array(case.inputs[0].astype(np.float32))[None]
    for number, block in enumerate(case.oracle.layers):
        with oracle_choices(case.model, block):
            streams = run(number, streams)
            mx.eval(streams)
    return np.array(case.model.logits(streams)[0])


def nudged(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`values` with relative noise of float32's size."""
    return values * (1 + NUDGE * rng.standard_normal(values.shape))


def nudged_oracle_logits(case: Case, seed: int) -> np.ndarray:
    """The oracle with the same choices from a slightly different embedding: [S, V]."""
    table = nudged(case.weights["embed.weight"], np.random.default_rng(seed))
    layers = dict(enumerate(case.oracle.layers))
    entries = {n: b.index_selected for n, b in layers.items() if b.index_selected is not None}
    experts = {n: block.experts for n, block in layers.items()}
    weights = case.weights | {"embed.weight": table}
    return v4_numpy.forward(
        case.config, weights, case.tokens, official=True, selections=entries, experts=experts
    ).logits


@pytest.mark.parametrize(
    "case", ["tiny", pytest.param("tiny512", marks=pytest.mark.slow)], indirect=True
)
def test_the_whole_model_prefers_the_oracles_tokens(case: Case) -> None:
    check_preferred(case)


def check_preferred(case: Case) -> None:
    """Rounding amplifies noise: the logits may differ as much as float32 noise makes the oracle's
    own differ. A token whose lead is twice the most that noise moved any logit stays the best."""
    caches = case.model.make_cache()
    logits = forced_model_logits(case, lambda n, x: case.run_layer(n, x, caches[n]))
    expected = case.oracle.logits
    noisy = [nudged_oracle_logits(case, seed) for seed in range(NUDGES)]
    moved = max(np.abs(other - expected).max() for other in noisy)
    second, best = np.sort(expected, axis=1)[:, -2:].T
    clear = best - second > 2 * moved
    print(f"noise moves a logit by {moved:.2f}, the model by {np.abs(logits - expected).max():.2f}")
    print(f"{clear.mean():.1%} of the rows have a clear favourite")
    assert clear.mean() >= 0.4
    assert (logits.argmax(axis=1) == expected.argmax(axis=1))[clear].all()
    noise = max(running.mean_kl(expected, other) for other in noisy)
    print(f"mean KL {running.mean_kl(expected, logits):.1e}, of noise {noise:.1e}")
    assert running.mean_kl(expected, logits) <= 2 * noise


@pytest.mark.slow
def test_nano_prefers_the_oracles_tokens() -> None:
    """A trained model on a text."""
    text = (running.GOLDEN.parent / "help" / "dsv4-chat.txt").read_text(encoding="utf-8")
    check_preferred(Case(running.NANO, Tokenizer(running.NANO).encode(text)[:LENGTH]))
