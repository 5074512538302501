"""Engram's kernels: the published rows, the gate's example, NaN, what is refused, gradients."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.engram_hash import NO_TOKEN, multipliers, row_numbers
from metal_kernels.contract import ContractError, random_normal
from metal_kernels.engram_gate import KERNEL as GATE
from metal_kernels.engram_gate.reference import engram_gate
from metal_kernels.engram_rows import KERNEL as ROWS
from metal_kernels.engram_rows.reference import engram_rows
from tests.kernels.host import assert_text_matches, host_plan
from tests.kernels.pairwise import pairwise, sizes_id, thinned
from tests.oracle import engram_numpy
from tests.release.test_engram import QUICK_BROWN_FOX, V41, numbers
from tests.release.test_engram import ROWS as PUBLISHED

GATES = pairwise(S=[1, 3], N=[1, 2, 4], D=[1, 31, 256, 1030], seed=range(3))
HASHES = pairwise(S=[1, 2, 3, 40], H=[1, 2, 3], heads=[1, 8], seed=range(3))
# D 4, one stream: the stream, its key, and the product of the two weights.
STREAM, KEY, WEIGHT = [1.0, 2, 3, 4], [0.5, -1, 2, 1], [1.0, 1, 0.5, 2]


def gate_arguments(S: int, N: int, D: int, seed: int) -> dict:
    return {
        "streams": random_normal(seed, 2, S, N, D),
        "kv": random_normal(seed + 1, 2, S, N + 1, D),
        "q_weight": (1 + random_normal(seed + 2, N, D)).astype(mx.bfloat16),
        "k_weight": (1 + random_normal(seed + 3, N, D)).astype(mx.bfloat16),
        "official": seed % 2 == 0,
    }


def row_arguments(engram: EngramConfig, layer: int, ids: np.ndarray, length: int) -> dict:
    """The kernel's arguments for the last `length` of compressed ids [B, kept + length]."""
    kept = engram.kept_tokens
    return {
        "tokens": mx.array(ids[:, kept:].astype(np.int32)),
        "history": mx.array(ids[:, :kept].astype(np.int32)),
        "token_map": mx.arange(engram.compressed_vocab_size, dtype=mx.int32),
        "multipliers": mx.array(multipliers(engram, layer), mx.int64),
        "primes": mx.array(engram.primes(layer), mx.int64),
        "pad_token_id": engram.pad_token_id,
    }


@pytest.mark.parametrize("sizes", thinned(GATES))
def test_gates_of_all_sizes(sizes: dict) -> None:
    assert_text_matches(GATE, gate_arguments(**sizes), sizes_id(sizes), order=sizes["seed"])


@pytest.mark.parametrize("sizes", thinned(HASHES))
def test_rows_of_all_sizes(sizes: dict) -> None:
    H, S, heads, seed = sizes["H"], sizes["S"], sizes["heads"], sizes["seed"]
    engram = EngramConfig((1,), 700, 1000, H + 1, heads, 32)
    ids = np.random.default_rng(seed).integers(-1, 700, (2, H + S))
    arguments = row_arguments(engram, 1, ids, S)
    assert_text_matches(ROWS, arguments, sizes_id(sizes), order=seed)
    rows, last = engram_rows(**arguments)
    assert np.array_equal(np.array(rows), row_numbers(engram, 1, ids, engram.pad_token_id))
    assert np.array_equal(np.array(last), ids[:, S:])


@pytest.mark.parametrize("text", [False, True], ids=["reference", "metal"])
@pytest.mark.parametrize("layer", V41.layer_ids)
def test_rows_are_the_published_ones(layer: int, text: bool) -> None:
    ids = np.array([[NO_TOKEN] * 3 + QUICK_BROWN_FOX])
    arguments = row_arguments(V41, layer, ids, 4)
    if text:
        with host_plan() as plan:
            rows, last = plan.ops.engram_rows(**arguments)
    else:
        rows, last = engram_rows(**arguments)
    for token in (0, 3):
        assert rows[0, token].tolist() == numbers(PUBLISHED[layer, token])
    assert last.tolist() == [QUICK_BROWN_FOX[1:]]


def gate_of_the_example(sign: float, streams: list[float], text: bool) -> float:
    """The gate as what it lets pass of a value of one."""
    kv = mx.array([[sign * k for k in KEY], [1.0] * 4]).reshape(1, 1, 2, 4)
    arguments = {
        "streams": mx.array(streams).reshape(1, 1, 1, 4),
        "kv": kv,
        "q_weight": mx.array([WEIGHT]),
        "k_weight": mx.ones((1, 4)),
        "official": False,
    }
    if not text:
        return (engram_gate(**arguments) - arguments["streams"])[0, 0, 0, 0].item()
    with host_plan() as plan:
        found = plan.ops.engram_gate(**arguments)
    return (found - arguments["streams"])[0, 0, 0, 0].item()


@pytest.mark.parametrize("text", [False, True], ids=["reference", "metal"])
def test_the_gate_is_the_examples(text: bool) -> None:
    gates = [
        gate_of_the_example(1, STREAM, text),
        gate_of_the_example(-1, STREAM, text),
        gate_of_the_example(1, [0.0] * 4, text),
    ]
    assert np.allclose(gates, [0.7645788, 0.2354212, 0.5002500], atol=2e-7)
    oracle = engram_numpy.scores(np.array([STREAM]), np.array([KEY]), np.array([WEIGHT]))
    assert np.allclose(oracle, 1.3875638, atol=5e-8)
    assert np.allclose(engram_numpy.gates(oracle), 0.7645788, atol=5e-8)


def test_nan_fills_its_stream_or_its_channel() -> None:
    arguments = gate_arguments(4, 2, 40, 0)
    streams, kv = np.array(arguments["streams"]), np.array(arguments["kv"])
    streams[0, 0, 0, 7] = kv[0, 1, 1, 9] = kv[0, 2, 2, 11] = np.nan
    arguments |= {"streams": mx.array(streams), "kv": mx.array(kv)}
    assert_text_matches(GATE, arguments, "nan")
    filled = np.isnan(np.array(engram_gate(**arguments))[0]).sum(axis=-1)
    assert filled.tolist() == [[40, 0], [0, 40], [1, 1], [0, 0]]


def test_the_gate_has_the_gradient_of_its_equations() -> None:
    """Each derivative along a random direction is the difference quotient in float64."""
    names = ("streams", "kv", "q_weight", "k_weight")
    arguments = {n: gate_arguments(2, 2, 6, 1)[n].astype(mx.float32) for n in names}
    pull = random_normal(9, *arguments["streams"].shape)

    def loss(*arrays: mx.array) -> mx.array:
        return (engram_gate(*arrays, official=False) * pull).sum()

    found = mx.grad(loss, argnums=(0, 1, 2, 3))(*arguments.values())
    exact = {name: np.array(array, np.float64) for name, array in arguments.items()}

    def value(moved: dict[str, np.ndarray]) -> float:
        weight = moved["q_weight"] * moved["k_weight"]
        return float((engram_numpy.gated(moved["streams"], moved["kv"], weight) * pull).sum())

    for number, (name, gradient) in enumerate(zip(names, found, strict=True)):
        direction = np.random.default_rng(number).standard_normal(exact[name].shape)
        ends = (value({**exact, name: exact[name] + h * direction}) for h in (1e-6, -1e-6))
        high, low = ends
        assert np.isclose((np.array(gradient) * direction).sum(), (high - low) / 2e-6, rtol=1e-3)


def test_streams_of_zeros_have_a_gradient() -> None:
    kv = random_normal(0, 1, 1, 3, 8)
    weight = mx.ones((2, 8))

    def loss(streams: mx.array) -> mx.array:
        return engram_gate(streams, kv, weight, weight, official=False).sum()

    assert mx.isfinite(mx.grad(loss)(mx.zeros((1, 1, 2, 8)))).all().item()


def test_what_does_not_fit_is_refused() -> None:
    gate, rows = gate_arguments(1, 2, 8, 0), row_arguments(V41, 1, np.zeros((1, 4), int), 1)
    with host_plan() as plan:
        with pytest.raises(ContractError, match="a key for each of 2 streams"):
            plan.ops.engram_gate(**gate | {"kv": gate["kv"][:, :, :2]})
        with pytest.raises(ContractError, match="expected 4 multipliers"):
            plan.ops.engram_rows(**rows | {"multipliers": rows["multipliers"][:2]})
        with pytest.raises(ContractError, match="pad_token_id within"):
            plan.ops.engram_rows(**rows | {"pad_token_id": 99092})
        with pytest.raises(ContractError, match="expected integer primes"):
            plan.ops.engram_rows(**rows | {"primes": mx.ones(24)})
