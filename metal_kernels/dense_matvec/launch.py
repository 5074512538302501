"""Geometry of the product of few rows with a dense weight."""

import mlx.core as mx

from metal_kernels.contract import Call
from metal_kernels.sources import Prepared

# Rows of x that a threadgroup multiplies with each weight it reads.
MOST_ROWS = 8
# Dtypes of which the text reads eight numbers at a time; others one by one.
_WIDE_DTYPES = {mx.float32, mx.bfloat16}
# Fewer threadgroups than this leave a large GPU's cores idle; then each takes fewer outputs.
_ENOUGH_THREADGROUPS = 128


def dense_matvec(call: Call) -> mx.array:
    """x [M, in], weight [out, in] bfloat16 or float32 -> [M, out], one launch.

    The weight is read once for every eight rows of x: `out * in` times its itemsize bytes, and
    `2 M out in` FLOPs. Neighbouring lanes read neighbouring 16 bytes where `in` is a multiple of
    eight; x and weight then begin at multiples of 16 bytes, as whole arrays do. The numbers of
    a row do not depend on how many rows there are.
    """
    return product(call)


def product(call: Call) -> mx.array:
    """The launch, for kernels that begin with this product of `x` and `weight`."""
    (result,) = call.keep(_product)(call.arrays["x"], call.arrays["weight"])
    return result


def _product(call: Call) -> Prepared:
    x, weight = call.arrays["x"], call.arrays["weight"]
    (M, width), out = x.shape, weight.shape[0]
    wide = 8 if width % 8 == 0 and {x.dtype, weight.dtype} <= _WIDE_DTYPES else 1
    # Two texts in all: those for 2 and 4 rows read the same weights and took a compilation each.
    rows = 1 if M == 1 else MOST_ROWS
    outputs = next((n for n in (4, 2) if out >= n * _ENOUGH_THREADGROUPS), 1)
    simdgroups = next(n for n in (8, 4, 2, 1) if n == 1 or width > n // 2 * 32 * wide)
    threads = 32 * simdgroups
    return Prepared(
        call.backend,
        "dense_matvec",
        arrays=("x", "weight"),
        outputs={"product": ((M, out), mx.float32)},
        grid=(-(-out // outputs) * threads, -(-M // rows), 1),
        threadgroup=(threads, 1, 1),
        template={"OUTPUTS": outputs, "ROWS": rows, "WIDE": wide, "SIMDGROUPS": simdgroups},
    )
