"""A row of a call of up to eight has the bits that it has alone, whatever the others are."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels.sparse_attention.launch as attention
from metal_kernels.sparse_attention.launch import FEW_QUERIES
from tests.kernels.attention_calls import call, index_of
from tests.kernels.host import host_plan
from tests.kernels.pairwise import pairwise, sizes_id

pytestmark = pytest.mark.needs("metalhost")


def alone(arguments: dict[str, Any], s: int, spare: int) -> dict[str, Any]:
    """Query `s` of a call as decoding has it: the entries of then, its window as a ring.

    With `spare` the entries are a buffer with so many rows that nobody sees yet.
    """
    position = arguments["first_position"] + s
    W, n = arguments["sliding_window"], min(position + 1, arguments["sliding_window"])
    rows = [index_of(arguments, p) for p in range(position + 1 - n, position + 1)]
    ring = mx.zeros_like(arguments["window"][:, :1])
    window = mx.repeat(ring, W, axis=1)
    for p, row in zip(range(position + 1 - n, position + 1), rows, strict=True):
        window[:, p % W] = arguments["window"][:, row]
    entries, selected = arguments["entries"], arguments["selected"]
    complete = (position + 1) // arguments["ratio"]
    if selected is not None:
        selected = selected[:, s : s + 1]
        if complete <= selected.shape[2]:  # decoding attends all entries without selecting
            selected = None
    return {
        **arguments,
        "q": arguments["q"][:, s : s + 1],
        **{name: arguments[name][s : s + 1] for name in ("cos", "sin")},
        "window": window,
        "entries": entries[:, : complete + spare],
        "selected": selected,
        "first_position": position,
        "origin": 0,
    }


def ascending(arguments: dict[str, Any], most: int) -> dict[str, Any]:
    """A selection as index_topk gives it: ascending, all where there are few, holes at the end."""
    S, T = arguments["q"].shape[1], arguments["entries"].shape[1]
    first = arguments["first_position"]
    chosen = np.full((1, S, most), -1, np.int32)
    for s in range(S):
        visible = min(T, (first + s + 1) // 4)
        count = min(most, visible)
        own = np.random.default_rng(s).choice(visible, count, replace=False)
        chosen[0, s, :count] = np.sort(own)
    return {**arguments, "selected": mx.array(chosen)}


def attends(arguments: dict[str, Any], matrix: bool) -> np.ndarray:
    own = attention._text
    with host_plan("fast") as plan, pytest.MonkeyPatch.context() as patch:
        if not matrix:
            patch.setattr(attention, "_text", lambda backend, K, H: own("cuda", K, H))
        return np.array(plan.ops.sparse_attention(**arguments))


# Every one has queries of 64 or 96 keys, in splits of 32, beside queries of a key more or less and
# other splits: in a window that grows and in a full one, at entries, and where selection begins.
PLACES = pairwise(
    S=[3, 5, 8],
    place=[(80, 74, None), (40, 94, None), (40, 222, None), (40, 94, 24), (40, 130, 24)],
    matrix=[True, False], storage=["float32", "compact"], spare=[0, 93],
)  # fmt: skip


@pytest.mark.parametrize("sizes", PLACES, ids=sizes_id)
def test_attention_of_few_queries(sizes: dict[str, Any]) -> None:
    S, (W, first, most) = sizes["S"], sizes["place"]
    # Numbers that are not rounded at the end: sums in another order show.
    given = call(
        S, 4, 64, T=(first + S) // 4, storage=sizes["storage"], first=first, W=W, official=False
    )
    if most is not None:
        given = ascending(given, most)
    together = attends(given, sizes["matrix"])
    for s in range(S):
        one = attends(alone(given, s, sizes["spare"]), sizes["matrix"])
        np.testing.assert_array_equal(together[:, s : s + 1], one, err_msg=f"query {s}")


def test_splits_are_those_of_one_query() -> None:
    """Flash's: 4 groups of heads, the keys of a CSA layer and of HCA layers at two lengths."""
    for keys in (640, 128 + 1024, 128 + 8192):
        found = {attention._splits(keys, 4 * attention._queries(n)) for n in range(1, 9)}
        assert found == {attention._splits(keys, 4)}
    assert attention._splits(640, 4 * attention._queries(FEW_QUERIES + 1)) == 4
