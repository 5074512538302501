"""Command buffers by MLX's rule, and the launches that wait for one another, on small graphs."""

import mlx.core as mx
import pytest

from benchmarks.encoding import MLX_OWN, OURS, Limits, command_buffers, longest_chain
from tests.benchmarks.graphs import traced

MI = 1 << 20
WIDE = mx.zeros((MI,))
"""One Mi elements, never evaluated."""


def chain_of(length: int, x: mx.array) -> mx.array:
    for _ in range(length):
        x = mx.exp(x)
    return x


@pytest.mark.parametrize(("launches", "buffers"), [(3, 1), (4, 2), (7, 2), (8, 3)])
def test_one_launch_more_than_the_limit_ends_a_buffer(launches: int, buffers: int) -> None:
    """What is left at the end is a buffer of its own, and so is nothing at all."""
    graph = traced(lambda x: chain_of(launches, x), mx.zeros(8))
    assert command_buffers(graph, Limits(3, 50)) == buffers


def test_a_buffer_ends_above_its_elements_whatever_their_bytes() -> None:
    """Two arrays of one Mi each: the input and the output of a launch."""
    for dtype in (mx.float32, mx.uint8):
        graph = traced(lambda x: x + 1, WIDE.astype(dtype))
        assert command_buffers(graph, Limits(50, 2)) == 1
        assert command_buffers(graph, Limits(50, 1)) == 2


def test_memory_counts_once_in_a_buffer() -> None:
    """Views are the same memory; each launch has an output of eight elements."""

    def sums(x: mx.array) -> list[mx.array]:
        return [x.reshape(8, -1).sum(1), x.reshape(8, -1).max(1), x.reshape(8, -1).min(1)]

    assert command_buffers(traced(sums, WIDE), Limits(50, 1)) == 1
    apart = traced(lambda x, y: [x.sum(), y.sum()], WIDE, mx.zeros((MI,)))
    assert command_buffers(apart, Limits(50, 1)) == 2


def test_what_launches_nothing_adds_nothing() -> None:
    graph = traced(lambda x: x.reshape(-1, 8)[2:].T, WIDE)
    assert command_buffers(graph, Limits(0, 0)) == 1
    assert longest_chain(graph) == 0


def test_the_longest_chain_counts_what_waits() -> None:
    def step(x: mx.array, y: mx.array) -> mx.array:
        return chain_of(5, x).reshape(2, 4) + chain_of(3, y).reshape(2, 4)

    assert longest_chain(traced(step, mx.zeros(8), mx.zeros(8))) == 6


def test_work_that_is_made_to_wait_waits() -> None:
    def step(x: mx.array, y: mx.array) -> mx.array:
        (late,) = mx.depends([y], [chain_of(5, x)])
        return mx.exp(late)

    assert longest_chain(traced(step, mx.zeros(8), mx.zeros(8))) == 6


def test_the_limits_are_those_that_are_set() -> None:
    assert Limits(50, 50) == MLX_OWN and Limits(100, 100_000) == OURS
