"""Calls of sparse_attention for its tests: rings, stored rows, NaN where nobody looks."""

from typing import Any

import mlx.core as mx
import numpy as np

from metal_kernels.shared.formats import fp8_kv, store
from tests.kernels.float64_kernels import FLOAT64, Rounding, float64

STORAGES = ("float32", "bfloat16", "compact")
NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def stored(storage: str, pairs: int, *shape: int, seed: int = 0) -> mx.array:
    rows = normal(*shape, seed=seed)
    rows = rows if storage == "float32" else fp8_kv(rows, 2 * pairs)
    return store(rows, storage, "latent", 2 * pairs)


def call(
    S: int = 1,
    H: int = 4,
    K: int = 64,
    T: int = 0,
    B: int = 1,
    *,
    storage: str = "float32",
    select: bool = False,
    first: int | None = None,
    phase: int = 0,
    spare: int = 0,
    W: int = 24,
    pairs: int = 16,
    most: int = 9,
    official: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments of a call: ratio 4, every entry visible to the last query when `first` is None.

    The window has `spare` rows more than queries reach, and position 0 is at index `phase`. Of the
    entries `most` are selected, with holes where a query does not see them yet.
    """
    first = max(0, 4 * T - S) if first is None else first
    n = min(first, W - 1) + S + spare
    selected = None
    if select:
        order = mx.argsort(normal(B, S, T, seed=seed + 6), axis=-1)[..., :most].astype(mx.int32)
        visible = (mx.arange(first, first + S) + 1) // 4
        selected = mx.where((order < visible[:, None]) & (order % 5 != 3), order, -1)
    angles = normal(S, pairs, seed=seed + 3)
    return {
        "q": normal(B, S, H, K, seed=seed),
        "window": stored(storage, pairs, B, n, K, seed=seed + 1),
        "sinks": normal(H, seed=seed + 2),
        "cos": mx.cos(angles),
        "sin": mx.sin(angles),
        "entries": stored(storage, pairs, B, T, K, seed=seed + 5),
        "selected": selected,
        "first_position": first,
        "origin": -phase,
        "ratio": 4,
        "sliding_window": W,
        "official": official,
    }


def index_of(arguments: dict[str, Any], position: int) -> int:
    return (position - arguments["origin"]) % arguments["window"].shape[1]


def finite(output: mx.array) -> np.ndarray:
    assert not np.isnan(np.array(output)).any()
    return np.array(output)


def poisoned(arguments: dict[str, Any]) -> dict[str, Any]:
    """NaN in everything that no query of the call sees: old rows, later and unselected entries."""
    first, S = arguments["first_position"], arguments["q"].shape[1]
    last, n = first + S - 1, arguments["window"].shape[1]
    window, entries = mx.array(arguments["window"]), mx.array(arguments["entries"])
    bad = 0xFF if window.dtype == mx.uint8 else NAN
    seen = range(max(0, first - arguments["sliding_window"] + 1), last + 1)
    unseen = set(range(n)) - {index_of(arguments, p) for p in seen}
    for index in unseen:
        window[:, index] = bad
    B, T = entries.shape[:2]
    for row in range(B):
        used = range((last + 1) // 4)
        if arguments["selected"] is not None:
            used = set(np.array(arguments["selected"][row]).ravel().tolist())
        for index in set(range(T)) - set(used):
            entries[row, index] = bad
    return {**arguments, "window": window, "entries": entries}


UNSEEN = [
    dict(S=S, T=23, B=B, storage=storage, select=select, first=50 + 17 * B, spare=9, phase=5)
    for S, B, storage, select in [
        (1, 1, "compact", True), (1, 3, "float32", True), (3, 1, "bfloat16", False),
        (3, 3, "compact", True), (1, 1, "float32", False), (7, 1, "compact", False),
    ]
]  # fmt: skip


def nmse(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sum((found - expected) ** 2) / np.sum(expected**2))


def assert_is_attention(
    found: mx.array, arguments: dict[str, Any], powers_of_two: bool = False
) -> None:
    """The float64 result, up to roundings that a nudge of 3e-6 decides the other way.

    Weights and outputs lie on bf16's grid, and one that rounds the other way is 2^-7 off. Those
    that float32 may decide so are among those of the two nudges, each of them all at once.
    """
    numbers = float64(arguments)
    exact, *nudged = (
        FLOAT64["sparse_attention"](numbers, Rounding(nudge, powers_of_two))[0]
        for nudge in (0, -1, 1)
    )
    undecided = sum(nmse(result, exact) for result in nudged)
    assert found.shape == exact.shape and found.dtype == mx.float32
    assert nmse(np.array(found, np.float64), exact) <= 1e-10 + 2 * undecided
