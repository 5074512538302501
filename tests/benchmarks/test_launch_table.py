"""Every row of the launch table on a small traced graph, with the number its reason gives."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from benchmarks import launch_table
from benchmarks.launch_rules import Node
from benchmarks.launch_table import UnknownPrimitive
from tests.benchmarks.graphs import launches, total, traced

X = mx.zeros((4, 64))
BUFFER = mx.zeros((1, 32, 16))
ROWS = mx.zeros((1, 2, 16))
INDEX = mx.zeros((2,), mx.int32)
WORDS, SCALES = mx.zeros((8, 8), mx.uint32), mx.zeros((8, 2), mx.uint8)
STACK, STACK_SCALES = mx.zeros((3, 8, 8), mx.uint32), mx.zeros((3, 8, 2), mx.uint8)
ONE_ROW = mx.zeros((1, 1, 128))
KERNEL = mx.fast.metal_kernel(
    name="own", input_names=["a"], output_names=["o"], source="o[0] = a[0];"
)


def assigned(buffer: mx.array, index: Any, value: mx.array) -> mx.array:
    buffer[index] = value
    return buffer


def own(x: mx.array) -> mx.array:
    return KERNEL(
        inputs=[x],
        output_shapes=[(3,)],
        output_dtypes=[mx.float32],
        grid=(3, 1, 1),
        threadgroup=(3, 1, 1),
    )[0]


def packed(x: mx.array, words: mx.array, scales: mx.array) -> mx.array:
    return mx.quantized_matmul(x, words, scales, mode="mxfp4", group_size=32, bits=4)


def chosen(x: mx.array, words: mx.array, scales: mx.array, index: mx.array) -> mx.array:
    experts = index.astype(mx.uint32)
    return mx.gather_qmm(
        x,
        words,
        scales,
        lhs_indices=index,
        rhs_indices=experts,
        mode="mxfp4",
        group_size=32,
        bits=4,
    )


ATTENDED = (mx.zeros((1, 8, 1, 64)), mx.zeros((1, 8, 2000, 64)))

Example = tuple[Callable[..., Any], tuple[mx.array, ...], dict[str, int]]
EXAMPLES: dict[str, Example] = {
    "names for the same memory": (lambda x: mx.depends([x], [x])[0], (X,), {}),
    "broadcast": (lambda x: mx.broadcast_to(x, (3, 4, 64)), (X,), {}),
    "transpose": (lambda x: x.T, (X,), {}),
    "slice": (lambda x: x[1:, ::2], (X,), {}),
    "split": (lambda x: mx.split(x, 2)[1], (X,), {}),
    "new axis": (lambda x: x[:, None], (X,), {}),
    "squeeze": (lambda x: x[:1].squeeze(0), (X,), {}),
    "strided": (lambda x: mx.as_strided(x, (3, 3), (1, 1), 0), (X,), {}),
    "reshape": (lambda x: x.reshape(2, 2, 64).flatten().reshape(8, 32), (X,), {}),
    "reshape that copies": (lambda x: x.T.reshape(256), (X,), {"Reshape": 1}),
    "flatten that copies": (lambda x: x.T.flatten(), (X,), {"Flatten": 1}),
    "unflatten that copies": (
        lambda x: mx.unflatten(x[:, :4].T, 0, (2, 2)).reshape(-1),
        (X,),
        {"Reshape": 1},
    ),
    "reinterpreted": (lambda x: x.view(mx.uint32), (X,), {}),
    "reinterpreted with gaps": (lambda x: x.T.view(mx.uint8), (X,), {"View": 1}),
    "contiguous already": (lambda x: mx.contiguous(x), (X,), {}),
    "contiguous": (lambda x: mx.contiguous(x.T), (X,), {"mx_Contiguous": 1}),
    "contiguous rows of much memory": (
        lambda x: mx.contiguous(x[:1]),
        (mx.zeros((4096, 16)),),
        {"mx_Contiguous": 1},
    ),
    "unary": (lambda x: mx.exp(x.T), (X,), {"Exp": 1}),
    "binary": (lambda x: x + x, (X,), {"Add": 1}),
    "select": (lambda x: mx.where(x > 0, x, 1.0), (X,), {"Greater": 1, "Select": 1}),
    "cast": (lambda x: x.astype(mx.bfloat16), (X,), {"AsType": 1}),
    "codes": (
        lambda x: mx.from_fp8(mx.to_fp8(x), mx.float32),
        (X,),
        {"mx_ToFP8": 1, "mx_FromFP8": 1},
    ),
    "full": (lambda x: x + mx.zeros((4, 64)), (X,), {"Full": 1, "Add": 1}),
    "arange": (lambda x: x + mx.arange(64), (X,), {"Arange": 1, "AsType": 1, "Add": 1}),
    "random": (
        lambda k: mx.random.split(k),
        (mx.random.key(0),),
        {"RandomBits": 1},
    ),
    "concatenate": (lambda x: mx.concatenate([x, x, x[:0]]), (X,), {"Concatenate": 2}),
    "pad": (lambda x: mx.pad(x, 1), (X,), {"Pad": 2}),
    "update": (
        lambda b, r: assigned(b, (slice(None), slice(3, 5)), r),
        (BUFFER, ROWS),
        {"SliceUpdate": 1},
    ),
    "update of what is read later": (
        lambda b, r: [mx.exp(assigned(b[:], (slice(None), slice(3, 5)), r)), mx.sin(b)],
        (BUFFER, ROWS),
        {"SliceUpdate": 2, "Exp": 1, "Sin": 1},
    ),
    "update at an array of starts": (
        lambda b, r, i: mx.slice_update(b, r, i, [0, 1]),
        (BUFFER, ROWS, INDEX),
        {"DynamicSliceUpdate": 2},
    ),
    "slice at an array of starts": (
        lambda b, i: mx.slice(b, i, [0, 1], (1, 2, 16)),
        (BUFFER, INDEX),
        {"DynamicSlice": 2},
    ),
    "gather": (lambda x, i: x[i], (X, INDEX), {"Gather": 1}),
    "gather along an axis": (
        lambda x: mx.take_along_axis(x, x.astype(mx.int32), axis=1),
        (X,),
        {"AsType": 1, "GatherAxis": 1},
    ),
    "scatter": (lambda x, i, v: assigned(x, i, v), (X, INDEX, X[:2]), {"Scatter": 2}),
    "scatter along an axis": (
        lambda x, i: mx.put_along_axis(x, i, x[:, :2] + 1, axis=1),
        (X, mx.zeros((4, 2), mx.int32)),
        {"Add": 1, "ScatterAxis": 1},
    ),
    "sum": (lambda x: x.sum(-1), (X,), {"Reduce": 1}),
    "sum of all": (lambda x: x.sum(), (mx.zeros((128, 64)),), {"Reduce": 2}),
    "sum over gaps": (lambda x: x[:, :5].max(0), (X,), {"Reduce": 2}),
    "argmax": (lambda x: x.argmax(-1), (X,), {"ArgReduce": 1}),
    "softmax": (lambda x: mx.softmax(x, -1), (X,), {"Softmax": 1}),
    "softmax over gaps": (lambda x: mx.softmax(x[:, ::2], -1), (X,), {"Softmax": 2}),
    "logsumexp": (lambda x: mx.logsumexp(x, -1), (X,), {"LogSumExp": 1}),
    "cumulative": (lambda x: mx.cumsum(x, 0), (X,), {"Scan": 1}),
    "short sort": (lambda x: mx.sort(x), (mx.zeros((2, 2048)),), {"Sort": 1}),
    "long sort": (lambda x: mx.argsort(x), (mx.zeros((2, 2049)),), {"ArgSort": 4}),
    "longer sort": (lambda x: mx.sort(x), (mx.zeros((1, 65536)),), {"Sort": 12}),
    "partition": (lambda x: mx.partition(x, 3), (mx.zeros((2, 4097)),), {"Partition": 6}),
    "argpartition": (lambda x: mx.argpartition(x, 3, axis=0), (X,), {"ArgPartition": 1}),
    "vector product": (lambda x: x[:1] @ x.T, (X,), {"Matmul": 1}),
    "product with columns of a row": (
        lambda x, w: x[:, :64] @ w,
        (ONE_ROW[0], mx.zeros((64, 8))),
        {"Matmul": 2},
    ),
    "product with every second column": (
        lambda x: x[:, ::2] @ x[:, ::2].T,
        (X,),
        {"Matmul": 3},
    ),
    "split product": (lambda a: a @ a.T, (mx.zeros((4, 128)),), {"Matmul": 2}),
    "product and sum": (lambda x: mx.addmm(x[:1, :4], x[:1], x.T), (X,), {"AddMM": 1}),
    "chosen product": (
        lambda x, w, i: mx.gather_mm(x, w, lhs_indices=i, rhs_indices=i),
        (mx.zeros((2, 1, 64)), mx.zeros((3, 64, 5)), INDEX.astype(mx.uint32)),
        {"GatherMM": 1},
    ),
    "packed product": (packed, (X, WORDS, SCALES), {"QuantizedMatmul": 1}),
    "rows unpacked": (
        lambda w, s: mx.dequantize(w, s, group_size=32, bits=8, mode="mxfp8"),
        (mx.zeros((8, 16), mx.uint32), SCALES),
        {"mx_Dequantize": 1},
    ),
    "packed product with columns of a row": (
        lambda x, *w: packed(x[..., :64], *w),
        (ONE_ROW, WORDS, SCALES),
        {"QuantizedMatmul": 2},
    ),
    "packed product with many rows": (
        packed,
        (mx.zeros((16, 64)), WORDS, SCALES),
        {"QuantizedMatmul": 2},
    ),
    "chosen packed product": (
        chosen,
        (mx.zeros((2, 1, 64)), STACK, STACK_SCALES, INDEX.astype(mx.uint32)),
        {"GatherQMM": 1},
    ),
    "chosen packed product behind a new axis": (
        lambda x, *rest: chosen(x[:, None], *rest),
        (mx.zeros((2, 64)), STACK, STACK_SCALES, INDEX.astype(mx.uint32)),
        {"GatherQMM": 2},
    ),
    "chosen packed product that numbers its rows": (
        lambda x, w, s, i: mx.gather_qmm(
            x, w, s, rhs_indices=i, mode="mxfp4", group_size=32, bits=4
        ),
        (mx.zeros((2, 1, 64)), STACK, STACK_SCALES, INDEX.astype(mx.uint32)),
        {"Arange": 1, "GatherQMM": 1},
    ),
    "hadamard": (lambda x: mx.hadamard_transform(x), (X,), {"Hadamard": 1}),
    "hadamard of another size": (
        lambda x: mx.hadamard_transform(x),
        (mx.zeros((1, 12)),),
        {"Hadamard": 2},
    ),
    "own kernel": (own, (X,), {"own": 1}),
    "own kernel on a strided array": (lambda x: own(x.T), (X,), {"own": 2}),
    "norm": (lambda x: mx.fast.rms_norm(x, None, 1e-6), (X,), {"mx_RMSNorm": 1}),
    "norm with a bias": (
        lambda x: mx.fast.layer_norm(x.T, None, None, 1e-6),
        (X,),
        {"mx_LayerNorm": 2},
    ),
    "rope": (
        lambda x: mx.fast.rope(x, 64, traditional=True, base=1e4, scale=1.0, offset=0),
        (X[None],),
        {"mx_RoPE": 1},
    ),
    "attention": (
        lambda q, k: mx.fast.scaled_dot_product_attention(q, k, k, scale=1.0),
        ATTENDED,
        {"mx_ScaledDotProductAttention": 2},
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_launches_what_its_row_says(name: str) -> None:
    fun, inputs, expected = EXAMPLES[name]
    wanted = {key.replace("mx_", "mlx_"): count for key, count in expected.items()}
    assert launches(fun, *inputs) == wanted


def test_every_row_has_an_example() -> None:
    seen = set()
    for fun, inputs, _ in EXAMPLES.values():
        for item in traced(fun, *inputs):
            if item["type"] == "primitive":
                node = Node(item["name"], item["arguments"], [], [])
                seen.add(launch_table.row_name(node))
    unseen = [row.names for row in launch_table.TABLE if not seen & set(row.names)]
    # Compiled regions are made by benchmarks/mlx_vlm_graph.py alone.
    assert unseen == [("Compiled",)]


def test_a_primitive_without_a_row_is_an_error_that_names_it() -> None:
    with pytest.raises(UnknownPrimitive, match="found SearchSorted; read how"):
        total(lambda x: mx.searchsorted(x[0], x[1]), X)


def test_arrays_without_elements_launch_nothing() -> None:
    assert total(lambda x: mx.exp(x[:0]), X) == 0


def test_a_stray_cast_raises_the_count() -> None:
    def step(x: mx.array) -> mx.array:
        return own(mx.exp(x))

    def with_stray(x: mx.array) -> mx.array:
        return own(mx.exp(x.astype(mx.bfloat16)))

    assert total(with_stray, X) == total(step, X) + 1


def test_a_strided_kernel_input_raises_the_count() -> None:
    assert total(lambda x: own(mx.exp(x)[:, 1:]), X) == total(lambda x: own(mx.exp(x)), X) + 1


def test_one_row_of_a_slice_is_no_strided_kernel_input() -> None:
    assert launches(lambda x: own(x[..., 3:9]), ONE_ROW) == {"own": 1}


def test_the_published_table_is_this_one() -> None:
    assert launch_table.PAGE.read_text(encoding="utf-8") == launch_table.page(), "run make pages"
