"""Every case of every kernel against float64 numpy, within the tolerance its contract declares."""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.contract import Case, Kernel
from metal_kernels.registry import kernels
from metal_kernels.shared.formats import load_stored
from tests.kernels.compare import shapes, stored_as
from tests.kernels.float64_kernels import FLOAT64, Rounding, float64

CASES = [
    pytest.param(kernel, case, id=f"{kernel.name}-{case.id}")
    for kernel in kernels().values()
    for case in kernel.cases
]
LARGE = {"csa-decode", "hca-decode", "decode"}
# Rounded before a norm, whose scale every rounding moves: no longer on a grid.
NORMED = {"normed", "hidden"}
SEED = 7


def outputs(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def compared(kernel: Kernel, case: Case) -> Iterator[tuple[str, mx.array, list[np.ndarray]]]:
    """Name, our array, and the float64 result with roundings as they are, nudged down and up."""
    arguments = case.make(SEED)
    ours = outputs(kernel.reference(**arguments))
    exact = [FLOAT64[kernel.name](float64(arguments), Rounding(nudge)) for nudge in (0, -1, 1)]
    for name, array, *expected in zip(list(kernel.outputs)[: len(ours)], ours, *exact, strict=True):
        if array is not None:
            yield name, unstored(array, kernel.grids.get(name), arguments), expected
        else:
            assert expected[0] is None


def unstored(array: mx.array, grid: float | None, arguments: dict[str, Any]) -> mx.array:
    """Float32 values of rows that a kernel stored in bytes or bf16."""
    if grid is None or array.dtype not in (mx.uint8, mx.bfloat16):
        return array
    return load_stored(array, **stored_as(arguments))


def nmse(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sum((found - expected) ** 2) / max(np.sum(expected**2), 1e-300))


@pytest.mark.parametrize(("kernel", "case"), CASES)
def test_case(kernel: Kernel, case: Case) -> None:
    for name, array, (expected, below, above) in compared(kernel, case):
        assert array.shape == expected.shape, name
        found = np.array(array, np.float64)
        if mx.issubdtype(array.dtype, mx.integer):
            np.testing.assert_array_equal(found, expected, err_msg=name)
        elif name in kernel.grids and name not in NORMED and kernel_rounds(case):
            # On a grid: equal, but where float32 may decide a rounding the other way.
            low, high = np.minimum(below, above), np.maximum(below, above)
            assert np.sum(low != high) <= 0.02 * low.size, "the case decides too little"
            # Queries are rotated after they were rounded, which adds float32 noise.
            noise = 1e-6 * np.sqrt(np.mean(expected**2)) if expected.size else 0.0
            assert (np.minimum(low, expected) <= found + noise).all(), name
            assert (np.maximum(high, expected) >= found - noise).all(), name
        else:
            undecided = max(nmse(below, expected), nmse(above, expected))
            bound = max(kernel.tolerance, 1e-13) + undecided
            assert nmse(found, expected) <= bound, name


def kernel_rounds(case: Case) -> bool:
    arguments = case.make(SEED)
    return bool(arguments.get("official", True)) and arguments.get("rounding") != "none"


@pytest.mark.parametrize(("kernel", "case"), CASES)
def test_outputs_have_the_declared_shapes(kernel: Kernel, case: Case) -> None:
    arguments = case.make(SEED)
    sizes = kernel.check(shapes(kernel, arguments))
    found = outputs(kernel.reference(**arguments))
    for (name, shape), array in zip(list(kernel.outputs.items())[: len(found)], found, strict=True):
        if array is None:
            continue
        assert array.ndim == len(shape.split()), name
        for letter, size in zip(shape.split(), array.shape, strict=True):
            expected = int(letter) if letter.isdigit() else sizes.get(letter, size)
            assert size == (min(expected, sizes.get("T", size)) if letter == "k" else expected)


def strided(array: mx.array) -> mx.array:
    """The same values behind other strides."""
    if array.ndim < 2:
        return mx.repeat(array, 2)[::2]
    return mx.contiguous(array.swapaxes(0, -1)).swapaxes(0, -1)


@pytest.mark.parametrize(("kernel", "case"), [p for p in CASES if p.values[1].id not in LARGE])
def test_strides_of_the_inputs_change_nothing(kernel: Kernel, case: Case) -> None:
    arguments = case.make(SEED)
    views = {n: strided(a) if isinstance(a, mx.array) else a for n, a in arguments.items()}
    for plain, viewed in zip(
        outputs(kernel.reference(**arguments)), outputs(kernel.reference(**views)), strict=True
    ):
        if plain is None:
            assert viewed is None
        elif mx.issubdtype(plain.dtype, mx.integer):
            assert mx.array_equal(plain, viewed)
        else:  # another order of summation may decide a rounding the other way
            found, expected = (np.array(a.astype(mx.float32), np.float64) for a in (viewed, plain))
            assert nmse(found, expected) < 1e-7
