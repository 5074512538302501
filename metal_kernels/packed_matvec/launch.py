"""Geometry of the product of few rows with packed weights, of one matrix or of chosen ones."""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.sources import Prepared, Template

MOST_ROWS = 8
"""Rows of x that a launch multiplies with each weight it reads."""
_OUTPUTS, _SIMDGROUPS = 4, 2  # of a simdgroup, of a threadgroup
_CHUNK = 16  # codes that a lane takes at a time
_FORMATS = {"affine": 0, "mxfp8": 1, "mxfp4": 2}
_AFFINE_BITS = (2, 3, 4, 5, 6, 8)


def packed_matvec(call: Call) -> mx.array:
    """x [M, g, in] times a packed weight [N, in] -> [M, N], one launch.

    The weight is read once for every eight rows of x: `N in (bits / 8 + scale / group_size)` bytes,
    `2 M N in` FLOPs; each code is unpacked once for all rows. Four outputs share a row's numbers.
    No barrier, no threadgroup memory. The numbers of a row depend on neither M nor N.
    """
    arrays = call.arrays
    scales = arrays["scales"]
    (product,) = call.keep(_launch)(
        arrays["x"], arrays["codes"], scales, arrays.get("biases", scales), scales
    )
    return product


def _launch(call: Call) -> Prepared:
    M, g, N = (call.sizes[letter] for letter in "MgN")
    weight = packing(call)
    if N % g or (g > 1 and N // g % _OUTPUTS):
        raise ContractError(
            f"packed_matvec: expected a weight of {g} matrices of as many rows each, a multiple of "
            f"{_OUTPUTS}, but found {N} rows."
        )
    rows = rows_at_once(M)
    return prepared(
        call.backend, weight, results=M, outputs=N, sharing=g, blocks=-(-M // rows), rows=rows
    )


@dataclass(frozen=True)
class Weights:
    """A packed weight as the text sees it."""

    width: int
    template: Mapping[str, Template]


def packing(call: Call) -> Weights:
    """The format of a call's weight; ContractError where its arrays are not that format's."""
    bits, group = call.options["bits"], call.options["group_size"]
    width, words, groups = (call.sizes[letter] for letter in ("in", "words", "groups"))
    mode = "affine" if "biases" in call.arrays else f"mxfp{bits}"
    known = bits in _AFFINE_BITS if mode == "affine" else mode in _FORMATS and group == 32
    dtypes = tuple(call.arrays[name].dtype for name in ("x", "codes"))
    fits = (words * 32, groups * group) == (width * bits, width) and group % _CHUNK == 0
    is_exponent = call.arrays["scales"].dtype == mx.uint8
    small = call.arrays["codes"].size < _CHUNK // 2
    if (
        not (known and fits and width % 32 == 0)
        or small
        or dtypes != (mx.float32, mx.uint32)
        or is_exponent == (mode == "affine")
    ):
        raise ContractError(
            f"{call.kernel}: expected float32 rows and a weight that MLX packed as mxfp4, mxfp8 or "
            f"affine, in a multiple of 32, but found {mode} of {bits} bits in groups of {group}, "
            f"in = {width}, {words} words, {groups} scales {call.arrays['scales'].dtype}, rows "
            f"{dtypes[0]}; run the reference."
        )
    return Weights(width, {"FORMAT": _FORMATS[mode], "BITS": bits, "GROUP": group})


def rows_at_once(rows: int) -> int:
    """Rows that a threadgroup multiplies: three texts, of registers for one, four and eight."""
    return 1 if rows == 1 else 4 if rows <= 4 else MOST_ROWS


def prepared(
    backend: str,
    weight: Weights,
    *,
    results: int,
    outputs: int,
    sharing: int,
    blocks: int,
    rows: int,
    experts: bool = False,
) -> Prepared:
    """The launch: `blocks` threadgroups along y, see the text."""
    threads = 32 * _SIMDGROUPS
    return Prepared(
        backend,
        "packed_matvec",
        arrays=("x", "codes", "scales", "biases", "experts"),
        scalars={
            "results": results,
            "outputs": outputs,
            "width": weight.width,
            "sharing": sharing,
        },
        outputs={"product": ((results, outputs), mx.float32)},
        grid=(-(-outputs // (_OUTPUTS * _SIMDGROUPS)) * threads, blocks, 1),
        threadgroup=(threads, 1, 1),
        template={
            **weight.template,
            "ROWS": rows,
            "SIMDGROUPS": _SIMDGROUPS,
            "EXPERTS": experts,
        },
    )
