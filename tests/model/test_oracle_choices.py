"""What the model chooses where the float64 oracle chooses clearly, with no row left out.

Given what the oracle chose from, the model chooses the same. Given the streams before the layer, a
float32 sum now and then rounds to the other bfloat16 or FP4 neighbour (about one index code in ten
thousand), and one such key moves the scores of every later query: tests/model/
test_oracle_official.py finds those rows, here they count.
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

from dsv4_mlx.tokenizer import Tokenizer
from metal_kernels.formats import load_stored
from tests.model import running
from tests.model.test_oracle_official import CLEAR_MARGIN, Case, oracle_choices
from tests.oracle import v4_numpy

# Far above what a float32 sum of these terms is off by, far below CLEAR_MARGIN.
SAME_INPUT_MARGIN = 1e-5
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
        experts = chosen.experts if chosen._experts else np.array([])
        return Run(streams, experts, chosen.entries, index[0] if index else None)

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
        clear = block.index_margins > SAME_INPUT_MARGIN
        assert clear[contested(block)].mean() >= 0.98
        assert same_sets(list(np.array(selected[0])), block.index_selected)[clear].all()


def test_given_the_oracles_streams_clear_experts_are_the_oracles(case: Compared) -> None:
    """At most one row in five hundred is not: a rounding before the router moved its score."""
    equal, clear = [], []
    for number in case.scored_layers:
        block = case.oracle.layers[number]
        equal.append(same_sets(list(case.run(number).experts), list(block.experts)))
        clear.append(block.expert_margins > CLEAR_MARGIN)
    agreed = np.concatenate(equal)[np.concatenate(clear)]
    print(f"{(~agreed).sum()} of {len(agreed)} clear rows differ")
    assert agreed.mean() >= 0.998


def test_given_the_oracles_streams_index_vectors_are_the_oracles(case: Compared) -> None:
    """FP4 values: one that differs is the next code. Head weights are not rounded to any format."""
    for number in case.selecting_layers:
        q, raw_weights, stored = case.run(number).index
        keys = load_stored(stored, q.shape[-1], 0, "key")
        head_weights = raw_weights * (q.shape[-2] * q.shape[-1]) ** -0.5
        inputs = case.inputs_of(number)
        for ours, expected in ((q, inputs.index_q), (keys, inputs.keys)):
            differing = np.array(ours[0].astype(mx.float32)) != expected
            print(f"layer {number}: {differing.sum()} of {differing.size} index codes differ")
            assert differing.mean() <= 5e-4
        errors = np.abs(np.array(head_weights[0]) - inputs.head_weights)
        assert errors.max() <= 2.0**-7 * np.abs(inputs.head_weights).max()


def test_given_the_oracles_streams_most_clear_entries_are_the_oracles(case: Compared) -> None:
    """One key that differs can change the choice of every query after it: docs/LOG.md counts."""
    equal, clear = [], []
    for number in case.selecting_layers:
        block = case.oracle.layers[number]
        equal.append(same_sets(case.run(number).entries, block.index_selected))
        clear.append(contested(block) & (block.index_margins > CLEAR_MARGIN))
    agreed = np.concatenate(equal)[np.concatenate(clear)]
    print(f"{(~agreed).sum()} of {len(agreed)} clear rows differ")
    assert agreed.mean() >= 0.95


def test_every_layer_prefers_the_oracles_tokens(case: Compared) -> None:
    """Each layer on the oracle's streams, read by the head: rows of all layers together."""
    agreed = []
    for number, block in enumerate(case.oracle.layers):
        expected = v4_numpy._head(
            case.config, case.weights, "", "norm.weight", block.streams, official=True
        )
        ours = np.array(case.model.logits(case.run(number).streams)[0])
        agreed.append(ours.argmax(axis=1) == expected.argmax(axis=1))
        print(f"layer {number}: {(~agreed[-1]).sum()} of {len(expected)} rows differ")
    assert np.mean(agreed) >= 0.99


def test_the_head_prefers_the_oracles_tokens(case: Compared) -> None:
    logits = np.array(case.model.logits(single(case.oracle.streams[-1])[None])[0])
    assert (logits.argmax(axis=1) == case.oracle.logits.argmax(axis=1)).mean() >= 0.99
