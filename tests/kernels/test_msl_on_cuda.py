"""Metal text as CUDA: what changes in the text, what the prelude offers, how MLX launches it."""

import textwrap
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import sources
from metal_kernels.contract import Case, Kernel, random_normal
from metal_kernels.cuda_text import device_functions
from metal_kernels.registry import kernels
from tests.kernels import host, nvrtc
from tests.kernels.compare import assert_matches
from tests.kernels.cuda_host import cuda_host_plan
from tests.kernels.cuda_signature import UTILS, UTILS_TEXT, cuda_source, recorded

pytestmark = pytest.mark.needs("metalhost")

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


# Every word of Metal that a text may use, each in a row of `out` [rows, 128].
EVERY_WORD = """
#define ROW(value) out[row++ * 128 + column] = float(value);
struct Pair { float a, b; };
uint bits(float x) { return as_type<uint>(x); }
template <typename P> float4 four(P p) { return *(const device float4*)p; }
Pair pair(const device float* p) { return {p[0], p[1]}; }

// body
threadgroup float shared[64];
threadgroup uint counts[2];
threadgroup float4 quads[4];
threadgroup atomic_uint bins[2];
uint3 position = thread_position_in_grid;
uint lane = thread_index_in_simdgroup, group = simdgroup_index_in_threadgroup;
uint i = thread_position_in_threadgroup.x, column = position.x + 64 * position.y, row = 0;
thread float own = x[column % x_shape[0]];
ROW(lane) ROW(group) ROW(position.z) ROW(thread_index_in_threadgroup)
ROW(threads_per_threadgroup.x + threadgroups_per_grid.y + threadgroup_position_in_grid.y)
float4 v = four(x + 4 * (lane / 8)) * 2.0f + float4(own) / 3.0f, w = v;
w -= 0.5f * v;
w *= w;
v[lane % 4] += dot(v, w) + w.x + clamp(w.w, 0.0f, limit);
float2 u = float2(v.x, v.y) - float2(1.0f);
uint4 words = *(const device uint4*)x;
int2 whole = int2(1, 2) + int2(position.x);
ROW(v.x) ROW(v.y) ROW(v.z) ROW(v.w) ROW(w[lane % 4]) ROW(u.x) ROW(u.y) ROW(words.z) ROW(whole[1])
if (i < 4) quads[i] = v;
shared[i] = own;
if (i < 2) counts[i] = i + 5;
if (i < 2) atomic_store_explicit(&bins[i], 3u, memory_order_relaxed);
threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
ROW(quads[lane % 4].y) ROW(shared[63 - i]) ROW(counts[lane % 2])
atomic_fetch_add_explicit(&bins[i % 2], lane, memory_order_relaxed);
threadgroup_barrier(mem_flags::mem_threadgroup);
ROW(atomic_load_explicit(&bins[lane % 2], memory_order_relaxed))
simdgroup_barrier(mem_flags::mem_threadgroup);
ROW(simd_sum(own)) ROW(simd_max(own)) ROW(simd_min(own)) ROW(simd_sum(lane)) ROW(simd_max(group))
ROW(simd_or(1u << lane % 8)) ROW(simd_and(bits(own))) ROW(simd_min(int(lane) - 9))
ROW(simd_prefix_exclusive_sum(lane + 3)) ROW(simd_prefix_inclusive_sum(counts[lane % 2]))
ROW(simd_shuffle(own, ushort(31 - lane))) ROW(simd_shuffle_xor(own, 5))
ROW(simd_shuffle_down(own, 2)) ROW(simd_shuffle_up(own, 3))
ROW(simd_broadcast(own, 7)) ROW(simd_broadcast_first(own))
ROW(simd_any(own > 0.5f)) ROW(simd_all(own > -0.5f)) ROW(simd_all(own > -9.0f))
ROW(simd_vote::vote_t(simd_ballot(own > 0.0f)))
ROW(isnan(own)) ROW(isinf(1.0f / (float(lane) - 3.0f))) ROW(isnan(NAN)) ROW(-INFINITY)
ROW(exp(own)) ROW(exp2(own)) ROW(log(fabs(own))) ROW(log2(abs(own))) ROW(sqrt(fabs(own)))
ROW(rsqrt(fabs(own))) ROW(fma(own, u.x, u.y)) ROW(floor(own)) ROW(ceil(own)) ROW(rint(own))
ROW(pow(fabs(own), 1.5f)) ROW(fmax(own, 0.25f)) ROW(fmin(own, 0.25f)) ROW(ldexp(own, 3))
ROW(precise::exp(own)) ROW(precise::log(fabs(own))) ROW(precise::sqrt(fabs(own)))
ROW(precise::rsqrt(fabs(own))) ROW(precise::max(own, NAN)) ROW(precise::min(own, 0.25f))
ROW(max(own, 0.0f)) ROW(min(lane, 7u)) ROW(max(int(lane) - 20, whole.x))
ROW(bfloat16_t(own)) ROW(ROUNDS ? 1.0f : 0.0f) ROW(SIZE) ROW(as_type<float>(bits(own) & ~1u))
ROW(ushort(lane * 5000)) ROW(uchar(lane * 100)) ROW(ulong(lane) << 33) ROW(pair(x + lane).b)
typed[column] = T(own);
"""
ROWS = EVERY_WORD.count("ROW(") - 1


@pytest.fixture
def every_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of that text, among the prelude and no other text."""
    (tmp_path / "every_word").mkdir()
    (tmp_path / "every_word" / "every_word.metal").write_text(EVERY_WORD)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return "every_word"


def launched(backend: str, name: str, dtype: mx.Dtype) -> tuple[mx.array, ...]:
    return sources.launch(
        backend,
        name,
        inputs={"x": random_normal(4, 100), "limit": 0.75},
        outputs={"out": ((ROWS, 128), mx.float32), "typed": ((128,), dtype)},
        grid=(64, 2, 1),
        threadgroup=(64, 1, 1),
        template={"T": dtype, "ROUNDS": True, "SIZE": -3},
    )


@pytest.mark.nvrtc
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_cuda_knows_every_word(every_word: str, dtype: mx.Dtype) -> None:
    with recorded() as launches:
        launched("cuda", every_word, dtype)
    result = nvrtc.compiled(cuda_source(launches), "sm_90", {UTILS: UTILS_TEXT})
    assert ".reg .f64" not in result.ptx


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_every_word_means_on_cuda_what_it_means_on_metal(every_word: str, dtype: mx.Dtype) -> None:
    """Bit for bit: both run on this CPU."""
    with host.host_plan("checked", qualities=False):  # CUDA has one of each function
        metal = launched("metal", every_word, dtype)
    with cuda_host_plan():
        cuda = launched("cuda", every_word, dtype)
    for ours, expected in zip(cuda, metal, strict=True):
        assert ours.dtype == expected.dtype
        np.testing.assert_array_equal(*(np.array(a.astype(mx.float32)) for a in (ours, expected)))


# Of what differs from Metal, one case of each kernel tells; Metal's texts have all of them.
CASES = [
    pytest.param(kernel, case, id=f"{kernel.name}-{case.id}", marks=[pytest.mark.slow] * (n > 0))
    for kernel in kernels().values()
    if "cuda" in kernel.launches
    for n, case in enumerate(kernel.cases)
]


@pytest.mark.parametrize(("kernel", "case"), CASES)
def test_cuda_text_equals_reference(kernel: Kernel, case: Case) -> None:
    """Checked: also what threads beyond the grid do, which Metal cuts off and CUDA does not."""
    arguments = case.make(11)
    with cuda_host_plan() as plan:
        found = getattr(plan.ops, kernel.name)(**arguments)
    assert_matches(kernel, found, kernel.reference(**arguments), case=case.id, arguments=arguments)


def test_inputs_without_dimensions_are_pointers_on_cuda_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The body that MLX gets reads them by their own names."""
    arrays = {"x": mx.zeros((2,)), "eps": mx.array(1e-6)}
    assert sources.parameters("metal", arrays) == ("x", "eps")
    names = sources.parameters("cuda", arrays)
    assert names == ("x", "eps_0d")
    made = {}
    monkeypatch.setattr(mx.fast, "cuda_kernel", lambda **given: made.update(given))
    sources.built.__wrapped__("cuda", "swiglu", names, ("y",))
    header, body = sources.text("cuda", "swiglu")
    assert (made["input_names"], made["output_names"]) == (["x", "eps_0d"], ["y"])
    assert (made["header"], made["source"]) == (header, f"const auto eps = *eps_0d; {body}")
