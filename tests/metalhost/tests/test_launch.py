"""Grids, buffers, orders, errors and the cache."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from tests.metalhost import MetalHostError, ToolchainError, checking, metal_kernel, toolchain
from tests.metalhost import launch as launching
from tests.metalhost.tests.support import launch, numbers, values

pytestmark = pytest.mark.needs("metalhost")

ATTRIBUTES = """
uint3 g = thread_position_in_grid;
uint at = (g.z * 3 + g.y) * 70 + g.x;
device uint* row = out + at * 16;
row[0] = thread_position_in_threadgroup.x;
row[1] = thread_position_in_threadgroup.y;
row[2] = thread_position_in_threadgroup.z;
row[3] = threadgroup_position_in_grid.x;
row[4] = threadgroup_position_in_grid.y;
row[5] = threads_per_threadgroup.x;
row[6] = threads_per_threadgroup.y;
row[7] = dispatch_threads_per_threadgroup.x;
row[8] = thread_index_in_threadgroup;
row[9] = thread_index_in_simdgroup;
row[10] = simdgroup_index_in_threadgroup;
row[11] = simdgroups_per_threadgroup;
row[12] = threadgroups_per_grid.x * 10 + threadgroups_per_grid.y;
row[13] = threads_per_grid.x;
row[14] = threads_per_simdgroup + thread_execution_width;
row[15] = simd_sum(1u);
"""


@pytest.mark.parametrize("order", ["ascending", "descending", 3])
def test_attributes_in_edge_threadgroups(order):
    """Grid 70 x 3 x 2 in threadgroups of 32 x 2 x 1: the last column and row are smaller."""
    outputs = {"out": ((2, 3, 70, 16), mx.uint32)}
    (out,) = launch(ATTRIBUTES, {}, outputs, threads=(70, 3, 2), group=(32, 2, 1), order=order)
    for z, y, x in np.ndindex(2, 3, 70):
        width, height = min(32, 70 - x // 32 * 32), min(2, 3 - y // 2 * 2)
        index = y % 2 * width + x % 32
        lanes = min(32, width * height - index // 32 * 32)
        assert values(out)[z, y, x].tolist() == [
            x % 32, y % 2, 0, x // 32, y // 2, width, height, 32, index, index % 32, index // 32,
            (width * height + 31) // 32, 32, 70, 64, lanes,
        ], (z, y, x)  # fmt: skip


def test_a_threadgroup_is_never_wider_than_the_grid():
    source = "uint i = thread_position_in_grid.x; out[i] = dispatch_threads_per_threadgroup.x;"
    (out,) = launch(source, outputs={"out": ((5,), mx.uint32)}, threads=5, group=256)
    assert out.tolist() == [5] * 5


def test_strided_inputs_are_copied_unless_told_otherwise():
    a = numbers((6, 8), mx.float32)[::2, 1::2]
    source = """
    uint i = thread_position_in_grid.x;
    out[i] = a[i / 4 * a_strides[0] + i % 4 * a_strides[1]];
    """
    for contiguous in (True, False):
        (out,) = launch(source, {"a": a}, {"out": ((3, 4), mx.float32)}, threads=12,
                        ensure_row_contiguous=contiguous)  # fmt: skip
        assert mx.array_equal(out, a)


def test_initial_values_count_as_written():
    (out,) = launch("if (thread_position_in_grid.x == 3) out[3] += 1;", threads=8, init_value=2.0)
    assert out.flatten().tolist() == [2, 2, 2, 3, 2, 2, 2, 2]


def test_several_outputs_and_scalars():
    source = "uint i = thread_position_in_grid.x; x[i] = n; y[i] = s * i;"
    outputs = {"x": ((4,), mx.int32), "y": ((4,), mx.float16)}
    x, y = launch(source, {"n": 3, "s": 0.5}, outputs, threads=4)
    assert x.tolist() == [3] * 4 and y.tolist() == [0, 0.5, 1, 1.5]


def test_random_orders_differ_and_repeat():
    """A text whose result depends on who comes first shows the order."""
    source = """
    threadgroup atomic_uint turn;
    if (thread_index_in_threadgroup == 0) atomic_store_explicit(&turn, 0u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint mine = atomic_fetch_add_explicit(&turn, 1u, memory_order_relaxed);
    out[thread_position_in_grid.x] = mine;
    """

    def turns(order):
        outputs = {"out": ((96,), mx.uint32)}
        return launch(source, {}, outputs, threads=96, order=order)[0].tolist()

    assert turns("ascending") == list(range(96))
    assert turns("descending") != turns("ascending")
    assert turns(1) == turns(1) != turns(2)
    assert sorted(turns(1)) == list(range(96))


def test_threadgroups_take_turns_in_the_order_asked_for():
    source = """
    uint turn = atomic_fetch_add_explicit(&out[4], 1, memory_order_relaxed);
    atomic_store_explicit(&out[threadgroup_position_in_grid.x], turn, memory_order_relaxed);
    """

    def turns(order):
        (out,) = launch(source, {}, {"out": ((5,), mx.int32)}, threads=4, group=1, order=order,
                        init_value=0, atomic_outputs=True)  # fmt: skip
        return out.tolist()[:4]

    assert turns("ascending") == [0, 1, 2, 3]
    assert turns("descending") == [3, 2, 1, 0]
    assert len({tuple(turns(seed)) for seed in range(10)}) > 3


def test_threadgroup_memory_starts_as_nan_in_both_modes():
    source = "threadgroup float b[32];\nuint i = thread_position_in_grid.x; out[i] = b[i];"
    (out,) = launch(source, mode="fast")
    assert np.isnan(values(out)).all()


def test_a_fault_is_an_error_without_checks_too():
    source = "uint i = thread_position_in_grid.x;\nout[i] = a[i + 100000];"
    with pytest.raises(MetalHostError, match=r"body:2.*touches memory.*nearest: a") as caught:
        launch(source, {"a": mx.zeros((32,))}, mode="fast")
    assert caught.value.kind == "memory fault" and caught.value.line == 2


def test_an_overrun_is_an_error_without_checks_too():
    source = (
        "threadgroup float b[8];\nauto p = b;\np[thread_position_in_grid.x] = 1;\nout[0] = b[0];"
    )
    with pytest.raises(MetalHostError, match="wrote 0 bytes behind b"):
        launch(source, outputs={"out": ((1,), mx.float32)}, threads=9, mode="fast")


def test_a_kernel_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(launching, "SECONDS", 1)
    source = """
    if (thread_position_in_grid.x == 0)
      while (atomic_load_explicit(&out[1], memory_order_relaxed) == 0) {}
    atomic_store_explicit(&out[thread_position_in_grid.x], 1, memory_order_relaxed);
    """
    with pytest.raises(MetalHostError, match="still runs after 1 s"):
        launch(source, {}, {"out": ((2,), mx.int32)}, threads=2, group=1, init_value=0,
               atomic_outputs=True)  # fmt: skip


def test_shapes_that_metal_refuses():
    with pytest.raises(ValueError, match="more than 1024 threads"):
        launch("out[0] = 0;", threads=2048, group=2048)
    with pytest.raises(ValueError, match="from 1 up"):
        launch("out[0] = 0;", outputs={"out": ((1,), mx.float32)}, threads=(0, 1, 1))


def test_names_of_modes_and_orders_are_checked():
    with pytest.raises(ValueError, match="'quick'"), checking("quick"):
        pass
    with pytest.raises(ValueError, match="'sideways'"), checking(order="sideways"):
        pass


def test_mode_and_order_end_with_their_block():
    kernel = metal_kernel("k", [], ["out"], "out[thread_position_in_grid.x] = 1;")
    call = dict(inputs=[], output_shapes=[(4,)], output_dtypes=[mx.float32], grid=(4, 1, 1),
                threadgroup=(4, 1, 1))  # fmt: skip
    with checking("fast"):
        kernel(**call)
        assert kernel.counts.checked_accesses == 0
    kernel(**call)
    assert kernel.counts.checked_accesses == 4


COUNTED = """
uint i = thread_index_in_threadgroup, g = thread_position_in_grid.x;
threadgroup float b[64];
b[i] = a[g];
threadgroup_barrier(mem_flags::mem_threadgroup);
out[g] = simd_sum(b[63 - i]);
"""


@pytest.mark.parametrize("order", ["ascending", "descending", 5])
def test_work_is_counted_alike_in_every_order(order):
    """Of each of 128 threads: two reads and two writes, three of them of words with records."""
    kernel = metal_kernel("k", ["a"], ["out"], COUNTED)
    call = dict(inputs=[mx.ones((128,))], output_shapes=[(128,)], output_dtypes=[mx.float32],
                grid=(128, 1, 1), threadgroup=(64, 1, 1))  # fmt: skip
    with checking(order=order):
        kernel(**call)
    checked = kernel.counts
    assert (checked.threads, checked.checked_accesses, checked.records) == (128, 512, 384)
    assert (checked.most_barriers, checked.most_accesses) == (1, 4)
    with checking("fast", order):
        kernel(**call)
    assert kernel.counts == replace(checked, checked_accesses=0, records=0, most_accesses=0)
    # A thread waits at the barrier and all but one of a simdgroup at the sum; then it ends.
    assert kernel.counts.lane_switches == 128 + 4 * 31 + 128


def test_a_missing_toolchain_is_one_sentence(monkeypatch):
    monkeypatch.setattr(toolchain, "unsupported", lambda: None)
    monkeypatch.setattr(toolchain, "_zig", lambda: None)
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    monkeypatch.delenv("METALHOST_CLANG", raising=False)
    with pytest.raises(ToolchainError, match="pip install ziglang"):
        toolchain.toolchain.__wrapped__()


def test_another_machine_is_one_sentence(monkeypatch):
    monkeypatch.setattr(toolchain.platform, "system", lambda: "Linux")
    monkeypatch.setattr(toolchain.platform, "machine", lambda: "aarch64")
    with pytest.raises(ToolchainError, match="x86-64, not on Linux aarch64"):
        toolchain.toolchain.__wrapped__()


PROCESS = """
import mlx.core as mx
from tests.metalhost.tests.support import launch
(out,) = launch("out[thread_position_in_grid.x] = 41 + 1;")
assert out.sum().item() == 32 * 42
"""


def test_processes_share_an_empty_cache(tmp_path, monkeypatch):
    toolchain.toolchain()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def start(_):
        return subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True)

    with ThreadPoolExecutor() as pool:
        for done in pool.map(start, range(3)):
            assert done.returncode == 0, done.stderr
    objects = list(tmp_path.rglob("*.so"))
    assert len(objects) == 2 and not list(tmp_path.rglob(".build-*"))
