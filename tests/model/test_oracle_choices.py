"""The model chooses what the float64 oracle chooses from the same values, wherever that is clear.

First from the oracle's own values. Then inside a layer that runs on the oracle's streams: there a
float32 sum now and then rounds to the other bfloat16 or FP4 neighbour, another one on every
processor, and one such key moves the scores of every later query. So what a layer chooses from is
compared with what the oracle chooses from, as values, and its choices with what the oracle chooses
from the layer's own values. Every step from the streams to a choice is held that way.
"""

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.chat.tokenizer import Tokenizer
from metal_kernels.shared.formats import load_stored
from tests.model import running
from tests.model.test_oracle_official import LAYER_BOUND, Case, oracle_choices
from tests.oracle import v4_numpy

# Far above what a float32 sum of these terms is off by.
SAME_INPUT_MARGIN = 1e-5
LEAST_CLEAR = 0.98  # of the rows that have to choose
NANO_LENGTH = 600
NANO_TOPKS = (128, 16, 32)  # its own, and two with which it has to choose early


@dataclass
class Inputs:
    """What the oracle chose from in one layer; index fields are None where nothing is indexed."""

    routed: np.ndarray  # [S, D]
    index_q: np.ndarray | None  # [S, Hi, Ki], FP4 values
    keys: np.ndarray | None  # [T, Ki], FP4 values
    head_weights: np.ndarray | None  # [S, Hi]


@dataclass
class Run:
    """One layer of the model on the oracle's streams, with the oracle's choices."""

    streams: mx.array  # [1, S, N, D]
    routed: np.ndarray  # [S, D], what the router was given; empty where a table routes
    experts: np.ndarray  # [S, k], the model's own
    entries: list[np.ndarray]  # per query, the model's own
    index: tuple[mx.array, ...] | None  # index_q, head_weights, keys as index_topk got them


class Compared(Case):
    """A case whose layers run once however many tests look at them."""

    def __init__(self, folder: Path, tokens: list[int] | None = None):
        super().__init__(folder, tokens)
        self.inputs_of, self.run = cache(self._inputs_of), cache(self._run)

    def _inputs_of(self, number: int) -> Inputs:
        scored = patch.object(v4_numpy, "index_scores", wraps=v4_numpy.index_scores)
        mixed = patch.object(v4_numpy, "_moe", wraps=v4_numpy._moe)
        place = (self.config, self.weights, number, self.inputs[number], self.tokens)
        with scored as scores, mixed as moe:
            v4_numpy.run_block(*place, official=True)
        q, keys, head_weights = scores.call_args.args if scores.called else (None, None, None)
        return Inputs(moe.call_args.args[1], q, keys, head_weights)

    def _run(self, number: int) -> Run:
        streams = mx.array(self.inputs[number].astype(np.float32))[None]
        with oracle_choices(self.model, self.oracle.layers[number]) as chosen:
            ops, forced, index = self.model._plan.ops, self.model._plan.ops.index_topk, []

            def index_topk(*arrays, **options):
                index.append(arrays)
                return forced(*arrays, **options)

            ops.index_topk = index_topk
            streams = self.run_layer(number, streams, self.new_cache(number))
            mx.eval(streams)
        routed, experts = (
            (chosen.routed, chosen.experts) if chosen._experts else (np.array([]), np.array([]))
        )
        return Run(streams, routed, experts, chosen.entries, index[0] if index else None)

    @property
    def scored_layers(self) -> range:
        """Layers whose experts are chosen by score."""
        return range(self.config["num_hash_layers"], len(self.oracle.layers))

    @property
    def selecting_layers(self) -> list[int]:
        layers = enumerate(self.oracle.layers)
        return [n for n, b in layers if b.index_margins is not None and contested(b).any()]


def contested(block: v4_numpy.BlockResult) -> np.ndarray:
    """Rows [S] that see more entries than they may select."""
    return np.isfinite(block.index_margins)


def nano_selecting(folder: Path, topk: int) -> Path:
    """nano with another index_topk, in `folder`."""
    shutil.copytree(running.NANO, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"index_topk": topk}))
    return folder


NANOS = [pytest.param(f"nano {topk}", marks=pytest.mark.slow) for topk in NANO_TOPKS]


@pytest.fixture(scope="module", params=[*running.TINY_CONFIGS, *NANOS])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("checkpoint")
    if request.param in running.TINY_CONFIGS:
        return Compared(running.checkpoint_folder(request.param, folder))
    text = (running.GOLDEN.parent / "help" / "dsv4-chat.txt").read_text(encoding="utf-8")
    tokens = Tokenizer(running.NANO).encode(text)[:NANO_LENGTH]
    return Compared(nano_selecting(folder / "nano", int(request.param.split()[1])), tokens)


def single(values: np.ndarray) -> mx.array:
    return mx.array(values.astype(np.float32))


def rounding(q: np.ndarray, keys: np.ndarray, head_weights: np.ndarray) -> np.ndarray:
    """[S]: what two of a query's scores, summed in float32 in any order, are off by at most; never
    more than is allowed to the experts' scores.

    Products of FP4 values and their sums are exact; a head's weight, its product and each head's
    sum round once, in shares of the terms without their signs.
    """
    terms = v4_numpy.index_scores(q, keys, np.abs(head_weights)).max(axis=1)
    return np.minimum(2 * (q.shape[1] + 2) * 2.0**-24 * terms, SAME_INPUT_MARGIN)


def same_sets(ours: list[np.ndarray], expected: list[np.ndarray]) -> np.ndarray:
    """Rows [S] of two ragged lists that hold the same indices; -1 stands for none."""
    pairs = zip(ours, expected, strict=True)
    return np.array([np.array_equal(np.sort(a[a >= 0]), np.sort(b)) for a, b in pairs])


def test_given_the_oracles_router_input_experts_are_the_oracles(case: Compared) -> None:
    for number in case.scored_layers:
        gate, block = case.model.layers[number].mlp.gate, case.oracle.layers[number]
        x = single(case.inputs_of(number).routed)
        experts = np.array(gate(x, mx.array(case.tokens))[0]).astype(np.int64)
        clear = block.expert_margins > SAME_INPUT_MARGIN
        assert clear.mean() >= 0.99
        assert same_sets(list(experts), list(block.experts))[clear].all()


def test_given_the_oracles_index_vectors_entries_are_the_oracles(case: Compared) -> None:
    assert case.selecting_layers
    k = case.config["index_topk"]
    for number in case.selecting_layers:
        inputs, block = case.inputs_of(number), case.oracle.layers[number]
        arrays = (inputs.index_q, inputs.head_weights, inputs.keys)
        selected = case.model._plan.ops.index_topk(
            *(single(array)[None] for array in arrays), first_position=0, ratio=4, k=k, scale=1.0
        )
        clear = block.index_margins > rounding(inputs.index_q, inputs.keys, inputs.head_weights)
        assert clear[contested(block)].mean() >= LEAST_CLEAR
        assert same_sets(list(np.array(selected[0])), block.index_selected)[clear].all()


def test_in_a_layer_experts_follow_from_the_routers_input(case: Compared) -> None:
    for number in case.scored_layers:
        run, gate = case.run(number), f"layers.{number}.ffn.gate."
        logits = run.routed.astype(np.float64) @ case.weights[f"{gate}weight"].T
        count = case.config["num_experts_per_tok"]
        expected, _, margins = v4_numpy.route(logits, case.weights[f"{gate}bias"], count, 1.0)
        clear = margins > SAME_INPUT_MARGIN
        assert clear.mean() >= 0.99
        assert same_sets(list(run.experts), list(expected))[clear].all()


def test_given_the_oracles_streams_the_routers_input_is_the_oracles(case: Compared) -> None:
    """Not bit for bit: behind the attention's roundings, as a layer's streams are."""
    for number in case.scored_layers:
        expected = case.inputs_of(number).routed
        difference = np.linalg.norm(case.run(number).routed - expected, axis=1)
        errors = difference / np.linalg.norm(expected, axis=1)
        print(f"layer {number}: the router's input is off by {errors.max():.1e} at most")
        assert errors.max() <= LAYER_BOUND


def test_given_the_oracles_streams_index_vectors_are_the_oracles(case: Compared) -> None:
    """FP4 values: one that differs is the next code. Head weights are not rounded to any format."""
    for number in case.selecting_layers:
        q, keys, head_weights = index_values(case.run(number))
        inputs = case.inputs_of(number)
        for ours, expected in ((q, inputs.index_q), (keys, inputs.keys)):
            differing = ours != expected
            print(f"layer {number}: {differing.sum()} of {differing.size} index codes differ")
            assert differing.sum() <= differing_codes(differing.size)
        errors = np.abs(head_weights - inputs.head_weights)
        assert errors.max() <= 2.0**-7 * np.abs(inputs.head_weights).max()


def differing_codes(size: int) -> float:
    """How many of `size` FP4 codes float32 noise may move, at most.

    A float32 sum of some hundred terms is off by about 3e-7 of itself, and a bfloat16 rounding of
    it falls to the other side about once in ten thousand times, by 2**-8. The Hadamard transform
    spreads that over a vector: every value of it moves by about a thousandth of the distance
    between two codes. With what was rounded before it (one channel of a token's input moves all
    vectors of that token) one code in some ten thousand moves; docs/LOG.md has counts. They come
    in bursts, so the bound is five times that and no less than 6. A rounding left out moves a
    value by 2**-9 of itself and so one code in two hundred."""
    return max(6, 5e-4 * size)


def index_values(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries [S, Hi, Ki], keys [T, Ki] and head weights [S, Hi] a layer chose from, float64."""
    q, raw_weights, stored = run.index
    keys = load_stored(stored, q.shape[-1], 0, "key")
    head_weights = raw_weights * (q.shape[-2] * q.shape[-1]) ** -0.5
    return tuple(np.array(a[0].astype(mx.float32), np.float64) for a in (q, keys, head_weights))


def test_in_a_layer_entries_follow_from_the_index_vectors(case: Compared) -> None:
    for number in case.selecting_layers:
        run, block = case.run(number), case.oracle.layers[number]
        visible = np.isfinite(block.index_scores)
        values = index_values(run)
        scores = np.where(visible, v4_numpy.index_scores(*values), -np.inf)
        expected, margins = v4_numpy.select_top_k(scores, case.config["index_topk"])
        clear = margins > rounding(*values)
        assert clear[contested(block)].mean() >= LEAST_CLEAR
        assert same_sets(run.entries, expected)[clear].all()


def check_preferred(ours: np.ndarray, expected: np.ndarray) -> None:
    """Logits [S, V]: the oracle's best token is the model's wherever its lead is clear.

    Streams off by LAYER_BOUND of their length move a logit by about that much of the logits'
    deviation, some logit of a row by five times as much; the lead must be twice that."""
    second, best = np.sort(expected, axis=1)[:, -2:].T
    clear = best - second > 10 * LAYER_BOUND * expected.std(axis=1)
    print(f"{clear.mean():.1%} of the rows have a clear favourite")
    assert clear.mean() >= 0.5
    assert (ours.argmax(axis=1) == expected.argmax(axis=1))[clear].all()


def test_every_layer_prefers_the_oracles_tokens(case: Compared) -> None:
    """Each layer on the oracle's streams, read by the head."""
    for number, block in enumerate(case.oracle.layers):
        expected = v4_numpy._head(
            case.config, case.weights, "", "norm.weight", block.streams, official=True
        )
        check_preferred(np.array(case.model.logits(case.run(number).streams)[0]), expected)


def test_the_head_prefers_the_oracles_tokens(case: Compared) -> None:
    logits = np.array(case.model.logits(single(case.oracle.streams[-1])[None])[0])
    check_preferred(logits, case.oracle.logits)
