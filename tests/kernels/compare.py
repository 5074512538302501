"""How an implementation's result is compared with the reference's, output by output.

Integers must be equal. An output on a number grid (`Kernel.grids`) may differ by one step of the
grid where a sum in another order rounds the other way, for one element in a hundred at most; its
other elements differ by float32 noise. All other outputs keep the kernel's tolerance, a normalised
squared error in float64. NaN must stand in the same places.
"""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from metal_kernels.contract import Case, Kernel

# Share of a grid output's elements that may lie one step away, and the number always allowed.
FLIPPED_SHARE = 0.01
FLIPPED_AT_LEAST = 1
# Float32 noise, relative to the element's own size and the output's root mean square together.
NOISE = 1e-5


def named(kernel: Kernel, result: Any) -> dict[str, mx.array | None]:
    """A result's arrays by the contract's names; outputs that a call does not have are None."""
    arrays = result if isinstance(result, tuple) else (result,)
    assert len(arrays) <= len(kernel.outputs), f"{kernel.name}: {len(arrays)} outputs"
    missing = [None] * (len(kernel.outputs) - len(arrays))
    return dict(zip(kernel.outputs, [*arrays, *missing], strict=True))


def shapes(kernel: Kernel, arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the contract's arrays that a call has."""
    return {n: arguments[n].shape for n in kernel.inputs if arguments[n] is not None}


def assert_matches(
    kernel: Kernel,
    actual: Any,
    expected: Any,
    *,
    case: str = "",
    arguments: Mapping[str, Any] | None = None,
) -> None:
    """Raise AssertionError with kernel, case, output and worst element where results differ."""
    found = named(kernel, actual)
    for name, reference in named(kernel, expected).items():
        where = f"{kernel.name}[{case}].{name}" if case else f"{kernel.name}.{name}"
        _assert_output(kernel, where, name, found[name], reference, arguments or {})


def assert_equals_reference(
    kernel: Kernel, operation: Callable[..., Any], case: Case, seed: int = 0
) -> float:
    """Run `operation` on a case wherever it runs, and compare with the reference on the CPU.

    The largest error of what agrees, see `largest_error`.
    """
    arguments = case.make(seed)
    mx.eval([value for value in arguments.values() if isinstance(value, mx.array)])
    found = operation(**arguments)
    mx.eval(found)
    with mx.stream(mx.cpu):
        expected = kernel.reference(**arguments)
        mx.eval(expected)
        assert_matches(kernel, found, expected, case=case.id, arguments=arguments)
        return largest_error(kernel, found, expected, arguments)


def largest_error(
    kernel: Kernel, actual: Any, expected: Any, arguments: Mapping[str, Any] | None = None
) -> float:
    """The largest difference of one element, in root mean squares of its output; integers count 0.

    Of results that agree: the same shapes, and NaN in the same places.
    """
    found, worst = named(kernel, actual), 0.0
    for name, reference in named(kernel, expected).items():
        output = found[name]
        if reference is None or output is None:
            continue
        if kernel.grids.get(name) is not None and reference.dtype == mx.uint8:
            output, reference = (
                _unpacked(one, name, arguments or {}) for one in (output, reference)
            )
        if mx.issubdtype(reference.dtype, mx.integer) or not reference.size:
            continue
        a, e = _numpy(output), _numpy(reference)
        worst = max(worst, float(_finite_difference(a, e).max()) / (_rms(e) or 1.0))
    return worst


def _assert_output(
    kernel: Kernel,
    where: str,
    name: str,
    actual: mx.array | None,
    expected: mx.array | None,
    arguments: Mapping[str, Any],
) -> None:
    if expected is None or actual is None:
        assert actual is expected, f"{where}: only one of the two results has this output"
        return
    assert actual.shape == expected.shape, (
        f"{where}: expected shape {expected.shape} but found {actual.shape}"
    )
    assert actual.dtype == expected.dtype, (
        f"{where}: expected {expected.dtype} but found {actual.dtype}"
    )
    on_a_grid = kernel.grids.get(name)
    if on_a_grid is not None and expected.dtype == mx.uint8:
        actual, expected = (_unpacked(stored, name, arguments) for stored in (actual, expected))
    if mx.issubdtype(expected.dtype, mx.integer):
        _assert_equal(where, _numpy(actual), _numpy(expected))
        return
    a, e = _numpy(actual), _numpy(expected)
    _assert_nan_in_the_same_places(where, a, e)
    if on_a_grid is not None:
        _assert_on_grid(where, a, e, on_a_grid)
    else:
        _assert_close(where, a, e, kernel.tolerance)


def _unpacked(stored: mx.array, name: str, arguments: Mapping[str, Any]) -> mx.array:
    """The values of packed rows; their bytes may differ by a step and a scale."""
    from metal_kernels.shared.formats import load_stored

    return load_stored(stored, **stored_as(arguments))


def stored_as(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Width, rotated dims and kind of the rows that a call stores, from its arguments."""
    norm = arguments.get("kv_norm_weight", arguments.get("norm_weight"))
    kind = "key" if arguments.get("rounding") == "index" else "latent"
    return {"width": norm.size, "rope_dims": 2 * arguments["cos"].shape[-1], "kind": kind}


def _numpy(array: mx.array) -> np.ndarray:
    if mx.issubdtype(array.dtype, mx.integer):
        return np.array(array).astype(np.int64)
    return np.array(array.astype(mx.float32), np.float64)


def _assert_equal(where: str, actual: np.ndarray, expected: np.ndarray) -> None:
    wrong = actual != expected
    assert not wrong.any(), f"{where}: {_worst(wrong, wrong, actual, expected)}"


def _assert_nan_in_the_same_places(where: str, actual: np.ndarray, expected: np.ndarray) -> None:
    wrong = np.isnan(actual) != np.isnan(expected)
    assert not wrong.any(), f"{where}: NaN differs, {_worst(wrong, wrong, actual, expected)}"


def _finite_difference(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """`|actual - expected|`; 0 where both are the same infinity or NaN."""
    with np.errstate(invalid="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        return np.where(same, 0.0, np.abs(actual - expected))


def _assert_on_grid(where: str, actual: np.ndarray, expected: np.ndarray, step: float) -> None:
    difference = _finite_difference(actual, expected)
    known = np.where(np.isfinite(actual) & np.isfinite(expected), [actual, expected], 0.0)
    size = np.abs(known).max(axis=0)
    flipped = difference > NOISE * (np.abs(known[1]) + _rms(expected))
    # Next to zero the grids are even: there a step is tiny, but as large as the number itself.
    beyond = flipped & (difference > step * size + 10 * NOISE * _rms(expected))
    assert not beyond.any(), (
        f"{where}: more than one step of the grid away, "
        f"{_worst(beyond, difference, actual, expected)}"
    )
    allowed = max(FLIPPED_AT_LEAST, int(FLIPPED_SHARE * flipped.size))
    assert flipped.sum() <= allowed, (
        f"{where}: expected at most {allowed} of {flipped.size} elements to round the other way, "
        f"{_worst(flipped, difference, actual, expected)}"
    )


def _rms(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(known**2))) if known.size else 0.0


def _assert_close(where: str, actual: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    difference = _finite_difference(actual, expected)
    known = np.isfinite(expected)
    power = float(np.sum(expected[known] ** 2))
    error = float(np.sum(difference**2)) / max(power, 1e-300)
    wrong = difference > 0
    assert error <= tolerance, (
        f"{where}: normalised squared error {error:.3g} is above {tolerance:.3g}, "
        f"{_worst(wrong, difference, actual, expected)}"
    )


def _worst(wrong: np.ndarray, badness: np.ndarray, actual: np.ndarray, expected: np.ndarray) -> str:
    """How many elements are wrong, and the worst of them."""
    score = np.where(wrong, np.nan_to_num(badness.astype(np.float64), nan=np.inf), -1.0)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(score), score.shape))
    return (
        f"{int(wrong.sum())} of {wrong.size} elements differ, worst at {list(index)}: "
        f"expected {expected[index].item()} but found {actual[index].item()}"
    )
