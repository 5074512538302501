"""Metal text as CUDA: what changes in the text, what the prelude offers, how MLX launches it."""

import textwrap
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest

from metal_kernels import sources
from metal_kernels.cuda_text import device_functions
from metal_kernels.registry import kernels
from tests.kernels import host, nvrtc
from tests.kernels.compare import assert_matches
from tests.kernels.cuda_signature import UTILS, UTILS_TEXT, Launch, cuda_source, recorded

FUNCTIONS = [
    "float half_of(float x) { return x / 2; }",
    "inline uint key(float x) {\n  if (x > 0) { return 1; }\n  return 0;\n}",
    "template <int N, typename P>\nfloat sum(\n    P p, uint n) {\n  return p[n];\n}",
    "template <>\nLanes<4> of(Wide<4>) { return {}; }",
    "constexpr bool is_odd(int n) { return n % 2 == 1; }",
    "float declared(float x);",
    "Pair operator==(Pair a, Pair b) { return {a.x, b.y}; }",
    "Pair operator()(Pair a) { return a; }",
]
OTHERS = [
    "constant constexpr uint BLOCK = 64;",
    "constant constexpr float THIRD = float(1) / 3;",
    "constant constexpr float TABLE[2] = {1.0f, f(2)};",
    "struct Pair {\n  float x, y;\n  float at[(3 + 1) / 2];\n};",
    "template <int N> struct Wide {};",
    'static_assert(sizeof(float) == 4, "float");',
    "// a comment (with parentheses); and more {",
    "#define TWICE(x) \\\n  ((x) + (x))",
    "using Word = uint;",
]


@pytest.mark.parametrize("text", FUNCTIONS)
def test_a_function_becomes_a_device_function(text: str) -> None:
    words = "\n".join(OTHERS)
    found = device_functions(f"{words}\n{text}\n{words}\n{text}")
    template, name = ("", text) if not text.startswith("template") else text.split("\n", 1)
    marked = f"{template}\n__device__ {name}" if template else f"__device__ {name}"
    assert found == f"{words}\n{marked}\n{words}\n{marked}"


@pytest.mark.parametrize("text", OTHERS)
def test_everything_else_stays(text: str) -> None:
    assert device_functions(text) == text


def test_member_functions_are_device_functions_and_bodies_are_left_alone() -> None:
    text = textwrap.dedent("""
        template <int N>
        struct Row {
          float all[N];
          template <typename P>
          static float first(P p) {
            for (int i = 0; i < N; i++) call(p[i]);
            auto twice = [](float x) { return 2 * x; };
            return twice(p[0]);
          }
          // (comment)
          float last() const { return all[N - 1]; }
        };
        """)
    found = device_functions(text)
    assert found.count("__device__") == 2
    assert "\n  __device__ static float first(P p) {" in found
    assert "\n  __device__ float last() const {" in found
    assert found.replace("__device__ ", "") == text


def test_every_text_keeps_its_lines() -> None:
    for file in sources.ROOT.rglob("*.metal"):
        text = file.read_text(encoding="utf-8").partition(sources.BODY)[0]
        assert device_functions(text).replace("__device__ ", "") == text


EVERYTHING = """
struct Pair { float a, b; };
uint bits(float x) { return as_type<uint>(x); }
template <typename P> float4 four(P p) { return *(const device float4*)p; }
Pair pair(const device float* p) { return {p[0], p[1]}; }

// body
threadgroup float shared[32];
threadgroup uint counts[2];
threadgroup float4 rows[4];
uint lane = thread_index_in_simdgroup, group = simdgroup_index_in_threadgroup;
uint3 position = thread_position_in_grid;
uint i = thread_position_in_threadgroup.x + thread_index_in_threadgroup + position.y;
uint n = threads_per_threadgroup.x * threadgroups_per_grid.y + threadgroup_position_in_grid.z;
thread float own = x[i % x_shape[0]];
float4 v = four(x) * 2.0f + float4(own) / 3.0f, w = v;
w -= 0.5f * v;
w *= w;
v[lane % 4] += dot(v, w) + w.x + clamp(w.w, 0.0f, limit);
float2 u = float2(v.x, v.y) - float2(1.0f);
uint4 words = *(const device uint4*)x;
int2 whole = int2(1, 2) + int2(position.x);
rows[lane % 4] = v;
shared[lane] = own;
if (lane < 2) counts[lane] = n;
threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
simdgroup_barrier(mem_flags::mem_threadgroup);
float sum = simd_sum(shared[lane]) + simd_max(own) - simd_min(own) + float(simd_sum(half(own)));
uint all = simd_or(bits(own)) & simd_and(words[1] << 16) ^ simd_sum(lane) ^ simd_max(group);
uint before = simd_prefix_exclusive_sum(lane) + simd_prefix_inclusive_sum(counts[lane % 2]);
sum += simd_shuffle(own, ushort(3)) + simd_shuffle_xor(own, 1) + simd_shuffle_down(own, 2);
sum += simd_shuffle_up(own, 2) + simd_broadcast(own, 0) + simd_broadcast_first(own);
bool any = simd_any(own > 0) && !simd_all(own > 1) || isnan(own) || isinf(own);
ulong votes = simd_vote::vote_t(simd_ballot(any));
sum += exp(own) + exp2(own) + log(own) + log2(own) + sqrt(own) + rsqrt(own) + fabs(own) + abs(own);
sum += fma(own, u.x, u.y) + floor(own) + rint(own) + pow(own, u.x) + fmax(own, 0.0f);
sum += max(min(own, 1.0f), -INFINITY) + (ROUNDS ? float(bfloat16_t(own)) : NAN) + rows[1].x;
ushort little = ushort(uchar(all)) + min(n, counts[0]) + max(int(n), whole.x);
out[i] = T(sum + pair(x).a + float(before) + float(votes) + float(SIZE * little));
"""


@pytest.mark.nvrtc
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_the_prelude_offers_what_texts_may_use(dtype: mx.Dtype, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "everything"
    folder.mkdir()
    (folder / "everything.metal").write_text(EVERYTHING)
    (tmp_path / sources.PRELUDE).write_text((sources.ROOT / sources.PRELUDE).read_text())
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    launch = Launch(
        "everything",
        inputs=(("x", mx.float32, 2), (sources.SCALAR.format("limit"), mx.float32, 0)),
        outputs=(("out", dtype),),
        template=(("T", dtype), ("ROUNDS", True), ("SIZE", -3)),
        grid=(64, 2, 1),
        threadgroup=(64, 1, 1),
    )
    result = nvrtc.compiled(cuda_source([launch]), "sm_90", {UTILS: UTILS_TEXT})
    assert ".reg .f64" not in result.ptx


def whole_blocks(grid: tuple[int, ...], threadgroup: tuple[int, ...]) -> tuple[Any, Any]:
    """Grid and block as MLX launches them on CUDA, where a block is never cut off."""
    block = tuple(map(min, threadgroup, grid))
    return tuple(-(-g // t) * b for g, t, b in zip(grid, threadgroup, block, strict=True)), block


def ragged_cases() -> Iterator[Any]:
    """Cases with a launch whose grid is not a number of whole threadgroups."""
    for kernel in kernels().values():
        implementation = kernel.implementations.get("cuda")
        for case in kernel.cases if implementation else ():
            with recorded() as launches:
                implementation(**case.make(0))
            if any(whole_blocks(x.grid, x.threadgroup)[0] != x.grid for x in launches):
                yield pytest.param(kernel, case, id=f"{kernel.name}-{case.id}")


@pytest.mark.parametrize(("kernel", "case"), list(ragged_cases()))
def test_threads_beyond_the_grid_do_nothing(kernel, case, monkeypatch) -> None:
    """Metal cuts the last threadgroup to the grid, CUDA does not: these threads exist there."""
    built = host._built

    def in_whole_blocks(*text: Any) -> Any:
        def call(**launch: Any) -> Any:
            grid, block = whole_blocks(launch["grid"], launch["threadgroup"])
            return built(*text)(**{**launch, "grid": grid, "threadgroup": block})

        return call

    monkeypatch.setattr(host, "_built", in_whole_blocks)
    arguments = case.make(0)
    with host.host_plan() as plan:
        found = getattr(plan.ops, kernel.name)(**arguments)
    assert_matches(kernel, found, kernel.reference(**arguments), case=case.id, arguments=arguments)


def test_inputs_without_dimensions_are_pointers_on_cuda_only() -> None:
    arrays = {"x": mx.zeros((2,)), "eps": mx.array(1e-6)}
    assert sources._parameters("metal", arrays) == ("x", "eps")
    names = sources._parameters("cuda", arrays)
    assert names == ("x", "eps_0d")
    assert sources.scalars(names) == "const auto eps = *eps_0d; "
