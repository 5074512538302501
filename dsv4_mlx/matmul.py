"""Products with dense and packed weights, and how a plain CPU does them fast.

On a GPU these are MLX's own kernels. On the CPU three facts decide (measured, see docs/LOG.md):
packed products accumulate in the dtype of the activations, so those are float32; one product runs
on one thread, so large weights are halved over two streams; and packed products cost time per row,
so that above a few rows it is cheaper to unpack a tile of the weight and let BLAS multiply it.
"""

from dataclasses import dataclass
from functools import cache

import mlx.core as mx

# Rows above which a tile is unpacked for BLAS instead of multiplied packed, per mode (CPU).
CPU_CROSSOVER_ROWS = {"mxfp4": 32, "mxfp8": 1}
_OTHER_CROSSOVER_ROWS = 8
# Weights of fewer elements are not worth a second stream's hand-off (about 0.1 ms).
_SPLIT_ELEMENTS = 1 << 20
# The same for dense weights, whose products BLAS computes several times faster.
_DENSE_SPLIT_ELEMENTS = 1 << 22
# Elements of one unpacked tile: 32 MiB of float32 scratch.
_TILE_ELEMENTS = 1 << 23


@dataclass(frozen=True)
class Packing:
    """How a packed weight is stored, in MLX's words."""

    group_size: int
    bits: int
    mode: str


@cache
def _second_stream() -> mx.ThreadLocalStream:
    return mx.new_thread_local_stream(mx.cpu)


def on_cpu() -> bool:
    """Whether operations run on the CPU now."""
    return mx.default_device() == mx.cpu


def dense(x: mx.array, weight: mx.array) -> mx.array:
    """`x W^T` with a dense weight: [..., in], [out, in] -> [..., out], float32."""
    weight = weight.astype(mx.float32)
    if not on_cpu() or weight.size < _DENSE_SPLIT_ELEMENTS:
        return x @ weight.T
    half = weight.shape[0] // 2
    second = mx.matmul(x, weight[half:].T, stream=_second_stream())
    return mx.concatenate([x @ weight[:half].T, second], axis=-1)


def packed(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    packing: Packing,
) -> mx.array:
    """`x W^T` with a packed weight: [..., in], uint32 [out, in * bits / 32] -> [..., out]."""
    if not on_cpu():
        return _multiply(x, weight, scales, biases, packing)
    rows = x.size // x.shape[-1]
    if rows > CPU_CROSSOVER_ROWS.get(packing.mode, _OTHER_CROSSOVER_ROWS):
        return _unpacked_product(x, weight, scales, biases, packing)
    if weight.shape[-2] * x.shape[-1] < _SPLIT_ELEMENTS:
        return _multiply(x, weight, scales, biases, packing)
    return _halved_product(x, weight, scales, biases, packing)


def grouped(
    x: mx.array,
    weight: mx.array,
    scales: mx.array | None,
    biases: mx.array | None,
    packing: Packing | None,
) -> mx.array:
    """One product per group: x [..., g, in], weight [g * out, in] -> [..., g, out]."""
    groups = x.shape[-2]
    if packing is None or scales is None:
        rows = x.reshape(-1, *x.shape[-2:]).swapaxes(0, 1)  # [g, M, in]
        weight = weight.astype(mx.float32).reshape(groups, -1, x.shape[-1])
        products = rows @ weight.swapaxes(1, 2)
        return products.swapaxes(0, 1).reshape(*x.shape[:-1], -1)
    out = weight.shape[0] // groups
    parts = []
    for g in range(groups):
        rows = slice(g * out, (g + 1) * out)
        bias = None if biases is None else biases[rows]
        parts.append(packed(x[..., g, :], weight[rows], scales[rows], bias, packing))
    return mx.stack(parts, axis=-2)


def _multiply(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    packing: Packing,
    stream: mx.Stream | mx.ThreadLocalStream | None = None,
) -> mx.array:
    return mx.quantized_matmul(
        x,
        weight,
        scales,
        biases,
        transpose=True,
        group_size=packing.group_size,
        bits=packing.bits,
        mode=packing.mode,
        stream=stream,
    )


def unpack(
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    packing: Packing,
    stream: mx.Stream | mx.ThreadLocalStream | None = None,
) -> mx.array:
    """The float32 values of a packed weight, exactly."""
    return mx.dequantize(
        weight,
        scales,
        biases,
        group_size=packing.group_size,
        bits=packing.bits,
        mode=packing.mode,
        dtype=mx.float32,
        stream=stream,
    )


def _rows(
    start: int, stop: int, weight: mx.array, scales: mx.array, biases: mx.array | None
) -> tuple[mx.array, mx.array, mx.array | None]:
    return (
        weight[start:stop],
        scales[start:stop],
        None if biases is None else biases[start:stop],
    )


def _halved_product(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    packing: Packing,
) -> mx.array:
    half = weight.shape[0] // 2
    first = _multiply(x, *_rows(0, half, weight, scales, biases), packing)
    second = _multiply(
        x,
        *_rows(half, weight.shape[0], weight, scales, biases),
        packing,
        stream=_second_stream(),
    )
    return mx.concatenate([first, second], axis=-1)


def _unpacked_product(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array | None,
    packing: Packing,
) -> mx.array:
    """Unpack tile after tile of rows into scratch, alternating the streams, and multiply."""
    out, width = weight.shape[0], x.shape[-1]
    step = max(1, _TILE_ELEMENTS // width)
    if out * width >= _SPLIT_ELEMENTS:
        step = min(step, -(-out // 2))
    products: list[mx.array] = []
    for number, start in enumerate(range(0, out, step)):
        stream = _second_stream() if number % 2 else None
        tile = _rows(start, min(out, start + step), weight, scales, biases)
        if number > 1:
            # Without this MLX would unpack all tiles before it multiplies the first.
            tile = (*mx.depends(tile[:2], products[-2:-1]), tile[2])
        unpacked = unpack(*tile, packing, stream=stream)
        products.append(mx.matmul(x, unpacked.T, stream=stream))
    return products[0] if len(products) == 1 else mx.concatenate(products, axis=-1)


def gathered(
    x: mx.array,
    rows: mx.array,
    experts: mx.array,
    weight: mx.array,
    scales: mx.array | None,
    biases: mx.array | None,
    packing: Packing | None,
) -> mx.array:
    """Few rows, each with its own expert's matrix: x [M, in], weight [E, out, ·] -> [R, out].

    `rows` [R] says which row of x, `experts` [R] which matrix. On the CPU the R products are
    halved over two streams.
    """
    x = x[:, None, :]
    if packing is None or scales is None:
        matrices = weight.astype(mx.float32).swapaxes(-1, -2)
        return mx.gather_mm(x, matrices, lhs_indices=rows, rhs_indices=experts)[:, 0]

    def product(part: slice, stream: mx.ThreadLocalStream | None) -> mx.array:
        return mx.gather_qmm(
            x,
            weight,
            scales,
            biases,
            lhs_indices=rows[part],
            rhs_indices=experts[part],
            transpose=True,
            group_size=packing.group_size,
            bits=packing.bits,
            mode=packing.mode,
            stream=stream,
        )[:, 0]

    count = rows.shape[0]
    if not on_cpu() or count < 2 or weight.shape[1] * x.shape[-1] * count < _SPLIT_ELEMENTS:
        return product(slice(0, count), None)
    half = count // 2
    parts = [product(slice(0, half), None), product(slice(half, count), _second_stream())]
    return mx.concatenate(parts, axis=0)


def sorted_by_expert(
    x: mx.array,
    bounds: list[tuple[int, int, int]],
    weight: mx.array,
    scales: mx.array | None,
    biases: mx.array | None,
    packing: Packing | None,
) -> mx.array:
    """Many rows sorted by expert, one product per expert: x [R, in] -> [R, out] (CPU).

    `bounds` lists (expert, start, stop) for the experts that have rows.
    """
    products: list[mx.array] = []
    for expert, start, stop in bounds:
        rows = x[start:stop]
        if packing is None or scales is None:
            products.append(dense(rows, weight[expert]))
            continue
        codes, exponents = weight[expert], scales[expert]
        if products:  # one expert is unpacked at a time
            codes, exponents = mx.depends([codes, exponents], products[-1:])
        bias = None if biases is None else biases[expert]
        products.append(packed(rows, codes, exponents, bias, packing))
    return products[0] if len(products) == 1 else mx.concatenate(products, axis=0)
