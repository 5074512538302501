"""The strides that the counter predicts are those that MLX gives, on the CPU where they show."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from benchmarks import counting, layouts
from tests.benchmarks.graphs import traced

CHAINS: dict[str, Callable[[mx.array], mx.array]] = {
    "transpose": lambda x: x.transpose(1, 2, 0),
    "slice": lambda x: x[:, 1:3, ::2],
    "negative step": lambda x: x[::-1],
    "one row of a slice": lambda x: x[:1, :1, :4],
    "new axis": lambda x: x[:, None, :, None],
    "new axes first": lambda x: x[0][None, None],
    "squeezed": lambda x: x[:1].squeeze(0),
    "broadcast": lambda x: mx.broadcast_to(x[:, :1], (2, 5, 6)),
    "reshape": lambda x: x.reshape(6, 2, 4),
    "reshape of a slice": lambda x: x[:, :, :4].reshape(2, 4, 2, 2),
    "reshape of a transposed array": lambda x: x.transpose(2, 0, 1).reshape(3, 2, 8),
    "reshape that copies": lambda x: x.transpose(2, 0, 1).reshape(48),
    "flatten": lambda x: x.flatten(1, 2),
    "unflatten a slice": lambda x: mx.unflatten(x[..., :4], 2, (2, 2)),
    "split": lambda x: mx.split(x, 3, axis=-1)[1],
    "reinterpreted as bytes": lambda x: x[:, 1:].view(mx.uint8),
    "negated": lambda x: -x.transpose(1, 0, 2),
    "negated slice": lambda x: -x[:, 1:3],
    "negated columns of one row": lambda x: -x[:1, :1, :4],
    "cast": lambda x: x.transpose(2, 1, 0).astype(mx.bfloat16),
    "sum of like arrays": lambda x: x.transpose(1, 0, 2) + x.transpose(1, 0, 2),
    "sum of unlike arrays": lambda x: x.transpose(1, 0, 2) + x.reshape(4, 2, 6),
    "times a number": lambda x: x.transpose(1, 0, 2) * 2.0,
    "times a row": lambda x: x.transpose(1, 0, 2) * x[0, 0],
    "selected": lambda x: mx.where(x > 0, x, 0.0),
    "product": lambda x: x @ x.swapaxes(1, 2),
    "concatenated": lambda x: mx.concatenate([x, x[:, :1]], axis=1),
    "strided": lambda x: mx.as_strided(x, (3, 4), (1, 2), 0),
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_strides_are_those_that_mlx_gives(chain: Callable[[mx.array], mx.array]) -> None:
    x = mx.arange(48, dtype=mx.float32).reshape(2, 4, 6)
    mx.eval(x)
    result = chain(x)
    mx.eval(result)
    real = np.asarray(memoryview(result.view(mx.uint16) if result.dtype == mx.bfloat16 else result))
    predicted = layout_of(chain, x)
    assert predicted.shape == real.shape
    assert predicted.strides == tuple(stride // real.itemsize for stride in real.strides)


def layout_of(chain: Callable[[mx.array], mx.array], x: mx.array) -> layouts.Layout:
    """The layout of what `chain` returns, by the counter: seen by a node that reads it."""
    graph = traced(lambda x: mx.depends([chain(x)], [x])[0], x)
    return list(counting.walked(graph))[-1].node.inputs[0]


def test_contiguity_ignores_axes_of_size_one_but_matrices_do_not() -> None:
    row = layouts.Layout((1, 1, 4), mx.float32, (24, 6, 1), "x", 96)
    assert row.row_contiguous and row.contiguous
    assert not row.is_matrix


def test_a_broadcast_number_has_one_element_in_memory() -> None:
    wide = layouts.Layout((3, 4), mx.float32, (0, 0), "x", 4)
    assert wide.extent == 1 and wide.contiguous and not wide.row_contiguous


def test_a_slice_has_holes() -> None:
    slice_ = layouts.Layout((4, 3), mx.float32, (6, 1), "x", 96)
    assert not slice_.contiguous and not slice_.row_contiguous
