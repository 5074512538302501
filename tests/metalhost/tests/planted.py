"""Mistakes that must be found when the text runs, and correct texts that must stay silent.

Every kernel has 64 inputs `a` = 0, 1, 2, ..., a float output `out` of 64 and runs 64 threads in one
threadgroup, unless told otherwise. The number is the line to be named; START has lines 1 to 3.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    name: str
    body: str
    kind: str = ""
    """Empty for a correct text."""
    line: int | None = None
    header: str = ""
    threads: int = 64
    group: int = 64
    output: tuple[int, str] = (64, "float32")
    options: dict[str, Any] = field(default_factory=dict)


START = """
uint i = thread_index_in_threadgroup, g = thread_position_in_grid.x;
threadgroup float b[64];
threadgroup float c[64];
"""


def run(name: str, kind: str, line: int | None, lines: str, **more: Any) -> Case:
    """A mistake that shows when the text runs; its lines follow START."""
    return Case(name, START.strip("\n") + "\n" + lines.strip("\n"), kind, line, **more)


def silent(name: str, lines: str, **more: Any) -> Case:
    return run(name, "", None, lines, **more)


BYTES = {"output": (64, "uint8")}
FEWER = {"threads": 40, "group": 40, "output": (40, "float32")}
TWO_GROUPS = {"threads": 64, "group": 32}
ATOMIC = {"options": {"atomic_outputs": True, "init_value": 0}}

# fmt: off
RACES = [
    run("no barrier before another simdgroup's value is read", "race", 4, """
b[i] = 0; threadgroup_barrier(mem_flags::mem_threadgroup); b[i] = a[i];
out[i] = i < 32 ? b[i + 32] : b[i];
"""),
    run("no barrier inside a simdgroup", "race", 4, """
b[i] = 0; threadgroup_barrier(mem_flags::mem_threadgroup); b[i] = a[i];
out[i] = b[i ^ 1];
"""),
    run("simdgroup_barrier where a threadgroup_barrier is needed", "race", 4, """
b[i] = 0; threadgroup_barrier(mem_flags::mem_threadgroup); b[i] = a[i];
simdgroup_barrier(mem_flags::mem_threadgroup);
out[i] = i < 32 ? b[i + 32] : b[i];
"""),
    run("scratch is used again without a second barrier", "race", 8, """
float s = 0;
for (int n = 0; n < 2; n++) {
  b[i] = a[i] + n;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  s += b[63 - i];
}
out[i] = s;
"""),
    run("a tree reduction without barriers between its levels", "race", 6, """
b[i] = a[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint n = 32; n; n /= 2) if (i < n) b[i] += b[i + n];
threadgroup_barrier(mem_flags::mem_threadgroup);
out[i] = b[0];
"""),
    run("the barrier orders device memory only", "race", 6, """
b[i] = a[i];
threadgroup_barrier(mem_flags::mem_device);
out[i] = b[63 - i];
"""),
    run("the simdgroup_barrier orders device memory only", "race", 6, """
b[i] = 0; threadgroup_barrier(mem_flags::mem_threadgroup); b[i] = i;
simdgroup_barrier(mem_flags::mem_device);
out[i] = b[i ^ 1];
"""),
    run("the barrier orders threadgroup memory only", "race", 6, """
out[i] = a[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
float x = out[63 - i];
threadgroup_barrier(mem_flags::mem_device);
out[i] = x;
"""),
    run("the barrier orders nothing", "race", 6, """
b[i] = a[i];
threadgroup_barrier(mem_flags::mem_none);
out[i] = b[63 - i];
"""),
    run("two threads store different values in one place", "race", 5, """
out[i] = 0;
out[i / 2] = a[i];
"""),
    run("two threadgroups store in one place", "race", 4, """
out[i] = g;
out[32 + i] = 0;
""", **TWO_GROUPS),
    run("a threadgroup reads what another one stored", "race", 4,
        "out[g] = a[g] + out[63 - g];", **TWO_GROUPS, options={"init_value": 0}),
    run("a threadgroup stores what another one reads, behind a barrier of its own", "race", 6, """
float x = out[0];
threadgroup_barrier(mem_flags::mem_device);
if (g == 63) out[0] = x + 1;
""", **TWO_GROUPS, options={"init_value": 0}),
    run("the last of many readers writes", "race", 7, """
b[i] = a[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
float x = b[0];
if (i == 63) b[0] = x + 1;
out[i] = x;
"""),
    run("the first of many readers writes", "race", 7, """
b[i] = a[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
float x = simd_sum(b[0]);
if (i == 0) b[0] = x;
out[i] = x;
"""),
    run("a value that is read again is written meanwhile", "race", 9, """
b[i] = a[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
float x = i == 5 ? b[0] : 0;
threadgroup_barrier(mem_flags::mem_threadgroup);
x += i == 5 ? b[0] : 0;
if (i == 40) b[0] = 1;
out[i] = x;
"""),
    run("one plain read among atomic ones", "race", 10, """
threadgroup atomic_uint n;
if (i == 0) atomic_store_explicit(&n, 0u, memory_order_relaxed);
threadgroup_barrier(mem_flags::mem_threadgroup);
uint x = simd_sum(atomic_load_explicit(&n, memory_order_relaxed));
if (i == 63) x += *(threadgroup uint*)&n;
x = simd_sum(x);
if (i == 32) atomic_fetch_add_explicit(&n, 1u, memory_order_relaxed);
out[i] = x;
"""),
    run("a simdgroup_barrier before a store that another simdgroup's reads need", "race", 8, """
b[i] = a[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
float x = b[0];
simdgroup_barrier(mem_flags::mem_threadgroup);
if (i == 63) b[0] = x + 1;
out[i] = x;
"""),
    run("a plain store before atomic additions", "race", 5, """
if (i == 0) *(device float*)&out[0] = 0;
atomic_fetch_add_explicit(&out[0], 1.0f, memory_order_relaxed);
""", **ATOMIC),
    run("two threads change halves of one byte", "race", 4,
        "out[i / 2] |= uchar(i % 2 ? 16 : 1);", options={"init_value": 0}, **BYTES),
    run("a plain read beside atomic additions", "race", 4, """
atomic_fetch_add_explicit(&out[0], 1.0f, memory_order_relaxed);
float x = *(device float*)&out[0];
atomic_store_explicit(&out[1 + i % 63], x, memory_order_relaxed);
""", **ATOMIC),
    run("two simdgroups store one matrix", "race", 5, """
simdgroup_float8x8 m(float(i / 32));
simdgroup_store(m, out, 8);
"""),
]

MEMORY = [
    run("one element behind an input", "out of bounds", 4, "out[i] = a[i + 1];"),
    run("one element before an input", "out of bounds", 4, "out[i] = a[int(i) - 1];"),
    run("an index that reaches the next buffer", "out of bounds", 4, "out[i] = a[i + (1 << 30)];"),
    run("one element behind an output", "out of bounds", 4, "out[i + 1] = a[i];"),
    run("the grid is not a multiple of the threadgroup's width", "out of bounds", 4,
        "for (uint n = 0; n < 16; n++) out[g / 16 * 16 + n + g % 16] = 1;"),
    run("one element behind a threadgroup array", "index out of range", 4, """
b[i + 1] = a[i];
out[i] = 0;
"""),
    run("a pointer runs into the neighbouring threadgroup array", "out of bounds", 5, """
auto p = b + i;
p[1] = a[i];
c[i] = out[i] = 0;
"""),
    run("an index outside a private array", "index out of range", 5, """
float mine[4] = {0, 0, 0, 0};
mine[i % 5] = 1;
out[i] = mine[0];
"""),
    run("threadgroup memory that nobody wrote", "uninitialised read", 4, "out[i] = b[i];"),
    run("a sum that never started", "uninitialised read", 4, "b[i] += a[i]; out[i] = b[i];"),
    run("the part of a tile that the edge leaves out", "uninitialised read", 6, """
if (i < 60) b[i] = a[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
out[i] = b[63 - i];
"""),
    run("an output is read before it is written", "uninitialised read", 4, "out[i] += a[i];"),
    run("part of the output is never written", "unwritten output", None,
        "if (i != 17) out[i] = a[i];"),
    run("an input is written", "write to input", 4, "((device float*)a)[i] = 1; out[i] = 0;"),
    run("a float4 at an address that is no multiple of 16", "misaligned access", 4,
        "out[i] = (*(const device float4*)(a + i % 2)).x;"),
    run("a structure at an address that is no multiple of 16", "misaligned access", 4, """
Pair p = *(const device Pair*)(a + i % 2 * 2); out[i] = p.x.w + p.y.x;
""", header="struct Pair { float4 x, y; };", threads=32, group=32, output=(32, "float32")),
    run("a private array larger than a thread's stack", "memory fault", None, """
volatile float mine[100000];
for (uint n = 0; n < 100000; n++) mine[n] = a[n % 64];
out[i] = mine[i];
"""),
]

CONTROL_FLOW = [
    run("simd_sum in a branch that some lanes skip", "simd divergence", 4,
        "if (i % 32 < 7) out[i] = simd_sum(a[i]); else out[i] = 0;"),
    run("different simd operations in two branches", "simd divergence", 4, """
if (i % 2) out[i] = simd_sum(a[i]);
else out[i] = simd_max(a[i]);
"""),
    run("one simd operation on two lines", "simd divergence", 4, """
if (i % 2) out[i] = simd_sum(a[i]);
else out[i] = simd_sum(2 * a[i]);
"""),
    run("simd_sum in a loop of different lengths", "simd divergence", 5, """
float s = a[i];
for (uint n = 0; n < i % 3 + 1; n++) s = simd_sum(s);
out[i] = s;
"""),
    run("a barrier in a branch that some threads skip", "barrier divergence", 4,
        "if (i < 40) threadgroup_barrier(mem_flags::mem_threadgroup); out[i] = 0;"),
    run("a barrier in either branch", "barrier divergence", 5, """
if (i < 32) threadgroup_barrier(mem_flags::mem_threadgroup);
else threadgroup_barrier(mem_flags::mem_threadgroup);
out[i] = 0;
"""),
    run("an early return before a barrier", "barrier divergence", 5, """
if (i >= 60) { out[i] = 0; return; }
threadgroup_barrier(mem_flags::mem_threadgroup);
out[i] = 1;
"""),
    run("a barrier in a loop of different lengths", "barrier divergence", 4, """
for (uint n = 0; n < i / 32 + 1; n++) threadgroup_barrier(mem_flags::mem_threadgroup);
out[i] = 0;
"""),
    run("a barrier where another simdgroup waits for its lanes", "simd divergence", 4, """
if (i == 5) threadgroup_barrier(mem_flags::mem_none); else out[i] = simd_sum(a[i]);
out[i] = 0;
"""),
    run("a shuffle from lane 32", "simd argument", 4, "out[i] = simd_shuffle(a[i], i % 32 + 1);"),
    run("a shuffle from a lane that does not exist", "simd argument", 4,
        "out[i] = simd_shuffle_xor(a[i], 16);", **FEWER),
    run("lanes disagree about the broadcasting lane", "simd argument", 4,
        "out[i] = simd_broadcast(a[i], i % 2);"),
    run("lanes disagree about the distance", "simd argument", 4,
        "out[i] = simd_shuffle_down(a[i], i % 3);"),
    run("an integer division by zero", "division by zero", 4, "out[i] = 7 / int(a[i]);"),
]

CORRECT = [
    silent("a tree reduction", """
b[i] = a[i];
for (uint n = 32; n; n /= 2) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (i < n) b[i] += b[i + n];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
out[i] = b[0];
"""),
    silent("two buffers in turn need one barrier per step", """
float s = 0;
for (int n = 0; n < 4; n++) {
  if (n % 2) b[i] = a[i] + n; else c[i] = a[i] + n;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  s += n % 2 ? b[63 - i] : c[63 - i];
}
out[i] = s;
"""),
    silent("an exchange within a simdgroup", """
b[i] = a[i];
simdgroup_barrier(mem_flags::mem_threadgroup);
out[i] = b[i ^ 1];
"""),
    silent("an exchange through device memory", """
out[i] = a[i];
threadgroup_barrier(mem_flags::mem_device);
float x = out[63 - i];
threadgroup_barrier(mem_flags::mem_device);
out[i] = x;
"""),
    silent("one barrier for both memories", """
out[i] = a[i], b[i] = a[i];
threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
float x = out[63 - i] + b[63 - i];
threadgroup_barrier(mem_flags::mem_device);
out[i] = x;
"""),
    silent("neighbouring bytes of neighbouring threads", "out[i] = i;", **BYTES),
    silent("neighbouring halves of neighbouring threads",
        "out[i] = half(i); out[i] += 1;", output=(64, "float16")),
    silent("every lane stores the same value",
        "out[i / 32] = simd_sum(a[i]);", output=(2, "float32")),
    silent("threads at the edge do nothing between barriers", """
if (i < 30) b[i] = a[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
out[i] = i < 30 ? b[29 - i] : 0;
"""),
    silent("a whole simdgroup leaves early", """
if (i >= 32) { out[i] = 0; return; }
out[i] = simd_sum(a[i]);
"""),
    silent("a partial simdgroup sums what it has", "out[i] = simd_sum(a[i]);", **FEWER),
    silent("threadgroups store beside each other", "out[63 - g] = a[g];", **TWO_GROUPS),
    silent("threadgroups add atomically", """
atomic_fetch_add_explicit(&out[i % 4], a[g], memory_order_relaxed);
""", **TWO_GROUPS, **ATOMIC),
    silent("atomics after a plain start, with a barrier between", """
threadgroup atomic_uint n;
if (i == 0) atomic_store_explicit(&n, 0u, memory_order_relaxed);
threadgroup_barrier(mem_flags::mem_threadgroup);
atomic_fetch_add_explicit(&n, 1u, memory_order_relaxed);
threadgroup_barrier(mem_flags::mem_threadgroup);
out[i] = atomic_load_explicit(&n, memory_order_relaxed);
"""),
    silent("threads read one element and one of them writes it later", """
b[i] = a[i];
threadgroup_barrier(mem_flags::mem_threadgroup);
float x = b[0];
threadgroup_barrier(mem_flags::mem_threadgroup);
if (i == 0) b[0] = x + 1;
threadgroup_barrier(mem_flags::mem_threadgroup);
out[i] = b[0];
"""),
    silent("a helper with a barrier, called twice in turn",
        "out[i] = sum(b, a[i], i) + sum(c, 1, i);", header="""
template <typename P> float sum(P scratch, float x, uint i) {
  scratch[i] = x;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_sum(scratch[63 - i]);
}
"""),
    silent("what MLX adds to Metal is global",
        "out[i] = log1p(a[i]) + hypot(a[i], 1.0f) + float(log1p(bfloat(a[i]))) + log1p(half(1));"),
    silent("functions of bfloats that give floats", """
bfloat x = bfloat(a[i]);
out[i] = clamp(x, x, x) + sign(x) + saturate(x) + mix(x, x, x) + step(x, x) + copysign(x, x);
out[i] += smoothstep(x, bfloat(x + bfloat(1)), x) + float(exp(-x)) + float(max(x, x));
bfloat y = bfloat(clamp(x, x, x)); out[i] += float(y);
"""),
    silent("folds of integers of up to 32 bits", """
uchar small = uchar(i); short middle = short(i); uint2 two = uint2(i);
out[i] = simd_sum(small) + simd_max(middle) + simd_xor(i) + simd_sum(two).y + simd_sum(uint(i > 3));
"""),
]
# fmt: on

RUN_TIME = [*RACES, *MEMORY, *CONTROL_FLOW]
