"""The mHC kernels' Metal texts, run and checked on this CPU, against their references."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.contract import ContractError
from metal_kernels.hc_pre.launch import MOST_STREAMS
from metal_kernels.registry import kernels
from tests.kernels.compare import assert_matches
from tests.kernels.host import host_plan
from tests.kernels.pairwise import pairwise, sizes_id, thinned

pytestmark = pytest.mark.needs("metalhost")

SEEDS = range(2)
NAMES = ("hc_pre", "hc_post", "hc_post_pre", "hc_head")
Arguments = dict[str, Any]

# Tokens around the tiles of 1, 4 and 16; channels below a simdgroup, odd, and beyond one slice.
AXES: dict[str, Any] = {
    "B": (1, 3),
    "S": (1, 7, 128),
    "N": (2, 4),
    "D": (20, 131),
    "official": (True, False),
    "dtype": (mx.float32, mx.bfloat16),
}
SIZES = thinned(pairwise(**AXES))
# Every number of streams and sizes that make a threadgroup of 1024 take several channels a thread.
MORE_AXES: dict[str, Any] = {
    "B": (1, 2),
    "S": (1, 4, 5, 16, 17, 33),
    "N": tuple(range(1, MOST_STREAMS + 1)),
    "D": (5, 257, 1027),
    "official": (True, False),
    "dtype": (mx.float16,),
}
MORE_SIZES = [pytest.param(sizes, id=sizes_id(sizes)) for sizes in pairwise(**MORE_AXES)]


def normal(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def mixing(seed: int, N: int, D: int, rows: int, scales: int, dtype: mx.Dtype) -> Arguments:
    """What a sublayer or the head brings to a mix."""
    return {
        "fn": normal(seed, rows, N * D) * (N * D) ** -0.5,
        "base": normal(seed + 1, rows),
        "scale": normal(seed + 2, scales),
        "norm_weight": (1.0 + 0.1 * normal(seed + 3, D)).astype(dtype),
        "hc_eps": 1e-6,
        "norm_eps": 1e-6,
    }


def hc_pre(seed: int, B: int, S: int, N: int, D: int, dtype: mx.Dtype) -> Arguments:
    mix = mixing(10 * seed, N, D, (2 + N) * N, 3, dtype)
    return {**mix, "streams": normal(10 * seed + 4, B, S, N, D), "iters": 20}


def hc_post(seed: int, B: int, S: int, N: int, D: int, experts: int = 0) -> Arguments:
    return {
        "y": normal(10 * seed + 5, B, S, D),
        "streams": normal(10 * seed + 6, B, S, N, D),
        "post": normal(10 * seed + 7, B, S, N),
        "comb": normal(10 * seed + 8, B, S, N, N),
        "routed": normal(10 * seed + 9, B, S, experts, D) if experts else None,
    }


def hc_post_pre(seed: int, B: int, S: int, N: int, D: int, dtype: mx.Dtype) -> Arguments:
    post = hc_post(seed, B, S, N, D)
    del post["routed"]
    return {**hc_pre(seed, B, S, N, D, dtype), **post}


def hc_head(seed: int, B: int, S: int, N: int, D: int, dtype: mx.Dtype) -> Arguments:
    mix = mixing(10 * seed, N, D, N, 1, dtype)
    return {**mix, "streams": normal(10 * seed + 4, B, S, N, D)}


MAKERS: dict[str, Callable[..., Arguments]] = {
    "hc_pre": hc_pre, "hc_post_pre": hc_post_pre, "hc_head": hc_head
}  # fmt: skip


def outputs(result: Any) -> tuple[mx.array, ...]:
    return result if isinstance(result, tuple) else (result,)


def run(name: str, arguments: Arguments, seed: int = 0) -> Any:
    with host_plan(mode="checked", order=seed) as plan:
        assert plan.chosen[name] == "metal"
        return getattr(plan.ops, name)(**arguments)


def check(name: str, arguments: Arguments, seed: int) -> None:
    """Run one op's texts and compare with its reference."""
    found = run(name, arguments, seed)
    if name != "hc_post_pre":
        assert_equals_reference(name, found, arguments)
        return
    # A stream that rounds the other way moves everything after it: judge that from our streams.
    post, pre = halves(arguments)
    assert_equals_reference("hc_post", found[0], post)
    assert_equals_reference("hc_pre", found[1:], {**pre, "streams": found[0]})


def assert_equals_reference(name: str, found: Any, arguments: Arguments) -> None:
    kernel = kernels()[name]
    expected = kernel.reference(**arguments)
    if not arguments["official"]:  # nothing is rounded
        kernel = replace(kernel, grids={})
    elif name == "hc_pre":
        found = (at_one_scale(found[0], expected[0]), *found[1:])
    elif name == "hc_head":
        found = at_one_scale(found, expected)
    assert_matches(kernel, found, expected)


def at_one_scale(found: mx.array, expected: mx.array) -> mx.array:
    """`found` without what a value that rounds the other way does to the norm of its token."""
    ratios = np.array(found, np.float64) / np.array(expected, np.float64)
    factors = np.median(ratios, axis=-1, keepdims=True)
    assert (np.abs(factors - 1) <= 2.0**-7).all(), "further than one step of bf16 can move a norm"
    return mx.array((np.array(found, np.float64) / factors).astype(np.float32))


def halves(arguments: Arguments) -> tuple[Arguments, Arguments]:
    """hc_post_pre's arguments as those of hc_post and, but for its streams, of hc_pre."""
    ending = ("y", "streams", "post", "comb")
    post = {name: arguments[name] for name in (*ending, "official")}
    return post, {name: arguments[name] for name in arguments if name not in ending}


def sized(name: str, sizes: dict[str, Any], seed: int) -> Arguments:
    """The arguments of one choice of sizes; hc_post has no weights, and six or no experts."""
    shape = {axis: sizes[axis] for axis in "BSND"}
    if name == "hc_post":
        made = hc_post(seed, **shape, experts=6 if sizes["dtype"] == mx.float32 else 0)
    else:
        made = MAKERS[name](seed, **shape, dtype=sizes["dtype"])
    return {**made, "official": sizes["official"]}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", SIZES)
def test_text_equals_its_reference(name: str, sizes: dict[str, Any]) -> None:
    for seed in SEEDS:
        check(name, sized(name, sizes, seed), seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", MORE_SIZES)
def test_text_equals_its_reference_for_any_streams(name: str, sizes: dict[str, Any]) -> None:
    for seed in SEEDS:
        check(name, sized(name, sizes, seed), seed)


@pytest.mark.parametrize("D", [4096, pytest.param(7168, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_one_token_of_the_released_sizes(name: str, D: int) -> None:
    sizes = {"B": 1, "S": 1, "N": 4, "D": D, "dtype": mx.float32, "official": True}
    check(name, sized(name, sizes, 1), 1)


@pytest.mark.parametrize(
    ("S", "N", "D", "official"),
    [(1, 4, 131, True), (7, 2, 64, False), (19, 4, 257, True)],
)
def test_fused_is_the_composition_bit_for_bit(S: int, N: int, D: int, official: bool) -> None:
    arguments = {**hc_post_pre(3, 2, S, N, D, mx.bfloat16), "official": official}
    fused = run("hc_post_pre", arguments, seed=1)
    post, pre = halves(arguments)
    mixed = run("hc_post", post, seed=2)
    following = run("hc_pre", {**pre, "streams": mixed}, seed=3)
    for ours, theirs in zip(fused, (mixed, *following), strict=True):
        assert mx.array_equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_token_does_not_depend_on_its_neighbours(name: str) -> None:
    """One token, tiles of 4 and of 16: bit for bit the same numbers."""
    kernel = kernels()[name]
    sizes = {"B": 1, "S": 18, "N": 4, "D": 131, "dtype": mx.float32, "official": True}
    arguments = sized(name, sizes, 5)
    per_token = {n for n, shape in kernel.inputs.items() if shape.startswith("B S")}
    whole = outputs(run(name, arguments))
    for first, count in ((0, 1), (17, 1), (5, 3), (2, 7)):
        part = {
            n: a[:, first : first + count] if n in per_token else a for n, a in arguments.items()
        }
        for one, every in zip(outputs(run(name, part)), whole, strict=True):
            assert mx.array_equal(one, every[:, first : first + count])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["hc_pre", "hc_head", "hc_post_pre"])
def test_nan_and_infinity_make_their_own_token_nan(name: str, bad: float) -> None:
    sizes = {"B": 1, "S": 5, "N": 4, "D": 33, "dtype": mx.float32, "official": True}
    arguments = sized(name, sizes, 6)
    clean = outputs(run(name, arguments))
    streams = np.array(arguments["streams"])
    streams[0, 2, 1, 7] = bad
    arguments["streams"] = mx.array(streams)
    others = mx.array([0, 1, 3, 4])
    for output, found, before in zip(
        kernels()[name].outputs, outputs(run(name, arguments)), clean, strict=True
    ):
        assert mx.array_equal(found[:, others], before[:, others])
        if output != "mixed":  # there only the channel of the bad value
            assert mx.isnan(found[:, 2]).all()


@pytest.mark.parametrize("N", [1, 3, MOST_STREAMS])
def test_columns_of_comb_sum_to_one(N: int) -> None:
    """Of one entry, and of more than a simdgroup has lanes."""
    arguments = {**hc_pre(7, 1, 3, N, 16, mx.float32), "official": True}
    check("hc_pre", arguments, 0)
    _, _, comb = run("hc_pre", arguments)
    np.testing.assert_allclose(np.array(comb, np.float64).sum(axis=-2), 1 / (1 + 1e-6), atol=1e-6)


@pytest.mark.parametrize("iters", [1, 2, 20])
def test_the_number_of_sinkhorn_steps_is_an_input(iters: int) -> None:
    arguments = {**hc_pre(8, 1, 3, 4, 16, mx.float32), "official": False, "iters": iters}
    check("hc_pre", arguments, 0)


@pytest.mark.parametrize("name", ["hc_pre", "hc_head", "hc_post_pre"])
def test_weights_of_another_size_are_refused(name: str) -> None:
    sizes = {"B": 1, "S": 1, "N": 4, "D": 20, "dtype": mx.float32, "official": True}
    arguments = sized(name, sizes, 0)
    arguments["fn"] = arguments["fn"][:, :-1]
    with pytest.raises(ContractError, match=rf"{name}: expected fn as .* but found shape"):
        run(name, arguments)


def test_more_streams_than_the_texts_take_are_refused() -> None:
    arguments = {**hc_head(0, 1, 1, MOST_STREAMS + 1, 8, mx.float32), "official": True}
    with pytest.raises(ContractError, match=r"hc_head: expected N in 1\.\.8 but found 9"):
        run("hc_head", arguments)
