"""Atomics on device and threadgroup memory."""

import mlx.core as mx
import pytest

from tests.metalhost import MetalHostError
from tests.metalhost.tests.support import launch, values

pytestmark = pytest.mark.needs("metalhost")

OPERATIONS = {
    "fetch_add": lambda old, x: old + x,
    "fetch_sub": lambda old, x: old - x,
    "fetch_min": min,
    "fetch_max": max,
    "fetch_and": lambda old, x: old & x,
    "fetch_or": lambda old, x: old | x,
    "fetch_xor": lambda old, x: old ^ x,
    "exchange": lambda old, x: x,
}


@pytest.mark.parametrize("kind", ["int", "uint"])
def test_every_operation_returns_the_old_value(kind):
    start, operand = 12, 10
    lines = [
        f"old[{i}] = atomic_{name}_explicit(out + {i}, {operand}, memory_order_relaxed);"
        for i, name in enumerate(OPERATIONS)
    ]
    dtype = mx.int32 if kind == "int" else mx.uint32
    n = len(OPERATIONS)
    source = "\n".join(lines).replace("old[", "((device " + kind + "*)(out + 8))[")
    (out,) = launch(
        source, {}, {"out": ((16,), dtype)}, threads=1, init_value=start, atomic_outputs=True
    )
    assert out.tolist()[:n] == [f(start, operand) for f in OPERATIONS.values()]
    assert out.tolist()[n:] == [start] * n


def test_signs_matter_for_min_and_max():
    source = """
    atomic_fetch_min_explicit(out, -5, memory_order_relaxed);
    atomic_fetch_max_explicit((device atomic_uint*)(out + 1), 0xfffffff0u, memory_order_relaxed);
    """
    (out,) = launch(source, {}, {"out": ((2,), mx.int32)}, threads=1, init_value=3,
                    atomic_outputs=True)  # fmt: skip
    assert out.tolist() == [-5, -16]


@pytest.mark.parametrize("order", ["ascending", "descending", 4])
def test_threadgroups_count_together(order):
    source = """
    uint i = thread_position_in_grid.x;
    threadgroup atomic_uint here[4];
    if (i % 64 < 4) atomic_store_explicit(&here[i % 64], 0u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    atomic_fetch_add_explicit(&here[i % 4], i, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i % 64 < 4) {
      uint sum = atomic_load_explicit(&here[i % 64], memory_order_relaxed);
      atomic_fetch_add_explicit(&out[i % 64], sum, memory_order_relaxed);
    }
    """
    (out,) = launch(source, {}, {"out": ((4,), mx.uint32)}, threads=256, group=64, init_value=0,
                    atomic_outputs=True, order=order)  # fmt: skip
    assert out.tolist() == [sum(range(k, 256, 4)) for k in range(4)]


def test_float_add_and_compare_exchange():
    source = """
    atomic_fetch_add_explicit(&out[0], 0.5f, memory_order_relaxed);
    float seen = atomic_load_explicit(&out[1], memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&out[1], &seen, seen + 2.0f,
                                                  memory_order_relaxed, memory_order_relaxed)) {}
    """
    (out,) = launch(source, {}, {"out": ((2,), mx.float32)}, threads=100, group=32, init_value=1,
                    atomic_outputs=True, order=9)  # fmt: skip
    assert values(out).tolist() == [51, 201]


def test_atomics_of_other_types_are_refused():
    with pytest.raises(MetalHostError, match="int, uint, bool or float"):
        launch("atomic<half> x; out[0] = 0;", threads=1)
