"""Geometry of compression: one launch, a threadgroup for each window."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from metal_kernels.compress import reference
from metal_kernels.contract import Call, ContractError
from metal_kernels.shared.formats import RowKind, RowStorage, row_shape
from metal_kernels.shared.pairs import check_rope, pair_threads
from metal_kernels.shared.threadgroups import MOST_THREADS
from metal_kernels.sources import Prepared, zero_d

# Slots whose loads a thread issues together: the text's CHUNK.
_CHUNK = 8
MOVING = ("origin", "first_window")


def compress(call: Call) -> mx.array:
    """Stored entries [B, T, ...] of rows [B, n, C]: one launch, none where no window closes.

    Every latent and score that a window pools is read once: `8 d` bytes a slot, 8 slots with
    overlap (32 KiB for the release's d 512) and R without (512 KiB for R 128). A window is one
    threadgroup's, since its norm needs all channels; without overlap groups of its threads share
    the slots.
    """
    call.keep(_checked)
    _check_rows(call.sizes, call.options, call.moving["first_window"])
    if call.options["windows"] == 0:
        options = {**call.options, **call.moving}
        return reference.compress(*call.arrays.values(), **options)
    origin, first = zero_d(call.moving["origin"]), zero_d(call.moving["first_window"])
    (entries,) = call.keep(_launch)(*call.arrays.values(), origin, first)
    return entries


def _checked(call: Call) -> bool:
    _check(call.sizes, **call.options)
    return True


def _launch(call: Call) -> Prepared:
    return _prepared(call, **call.options)


def _prepared(
    call: Call, *, windows: int, ratio: int, rounding: str, storage: RowStorage, **scalars: Any
) -> Prepared:
    sizes = call.sizes
    d, lanes = sizes["d"], sizes["c"] // sizes["d"]
    kind: RowKind = "key" if rounding == "index" else "latent"
    row, dtype = row_shape(storage, kind, d, 2 * sizes["P"])
    members = pair_threads("compress", "d", d)
    groups = _groups(lanes * ratio, members)
    return Prepared(
        call.backend,
        "compress",
        arrays=tuple(call.arrays),
        moving=MOVING,
        scalars=scalars,
        outputs={"entries": ((sizes["B"], windows, row), dtype)},
        grid=(groups * members * windows, sizes["B"], 1),
        threadgroup=(groups * members, 1, 1),
        template={
            "D": d,
            "RATIO": ratio,
            "LANES": lanes,
            "GROUPS": groups,
            "MEMBERS": members,
            "INDEX": rounding == "index",
            "ROUNDS": rounding == "kv",
            "Stored": dtype,
        },
    )


def _check_rows(
    sizes: Mapping[str, int], options: Mapping[str, Any], first_window: int | mx.array
) -> None:
    """Raise ContractError where rows are missing; an array of a window is not looked into."""
    ratio, windows = options["ratio"], options["windows"]
    later = isinstance(first_window, mx.array) or first_window > 0
    earlier = 1 if sizes["c"] > sizes["d"] and later else 0
    if windows and (windows + earlier) * ratio > sizes["n"]:
        raise ContractError(
            f"compress: expected the rows of {windows + earlier} windows of {ratio} "
            f"but found {sizes['n']} rows."
        )


def _groups(slots: int, members: int) -> int:
    """Groups of threads that share the slots evenly, a chunk or more for each."""
    groups = 1
    while slots % (2 * groups * _CHUNK) == 0 and 2 * groups * members <= MOST_THREADS["compress"]:
        groups *= 2
    return groups


def _check(sizes: Mapping[str, int], **options: Any) -> None:
    """Raise ContractError where rows, columns or widths are not what the text will read."""
    ratio, windows, d, c = options["ratio"], options["windows"], sizes["d"], sizes["c"]
    if (sizes["R"], sizes["T"]) != (ratio, windows) or c not in (d, 2 * d):
        raise ContractError(
            f"compress: expected bias [{ratio}, {d} or {2 * d}] and {windows} rows of cos and sin "
            f"but found [{sizes['R']}, {c}] and {sizes['T']}."
        )
    first, last = min(options["kv_column"], options["gate_column"]), sizes["C"] - c
    if first < 0 or max(options["kv_column"], options["gate_column"]) > last:
        raise ContractError(
            f"compress: expected {c} latents and {c} scores within {sizes['C']} columns but found "
            f"them from {options['kv_column']} and {options['gate_column']} on."
        )
    check_rope("compress", sizes["P"], d)
    if options["rounding"] == "index" and d & (d - 1):
        raise ContractError(
            f"compress: expected index keys of a power of two but found {d} dims; "
            "run the reference with --backend cpu."
        )
