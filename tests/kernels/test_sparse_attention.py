"""Attention over rings and stored rows: what its reference promises."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels.sparse_attention.reference as reference
from metal_kernels.contract import Case
from metal_kernels.shared.formats import load_stored, store
from metal_kernels.sparse_attention import KERNEL, sparse_attention
from tests.kernels.attention_calls import (
    NAN,
    STORAGES,
    UNSEEN,
    assert_is_attention,
    call,
    finite,
    normal,
    poisoned,
)
from tests.kernels.pairwise import sizes_id

# A single key weighs 1, which needs no rounding.
ROUNDED = [case for case in KERNEL.cases if case.make(0)["official"] and "first" not in case.id]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("S", [1, 3])
def test_a_ring_at_every_phase_is_the_same_window(storage: str, S: int) -> None:
    ordered = call(S, T=3, storage=storage, first=40, W=6, spare=2, official=False)
    n = ordered["window"].shape[1]
    ordered["origin"] = 40 + S - n
    expected = np.array(sparse_attention(**ordered))
    for phase in range(n):
        places = [(p + phase) % n for p in range(40 + S - n, 40 + S)]
        ring = {**ordered, "window": mx.zeros_like(ordered["window"]), "origin": -phase}
        ring["window"][:, mx.array(places)] = ordered["window"]
        np.testing.assert_array_equal(np.array(sparse_attention(**ring)), expected)


@pytest.mark.parametrize("select", [False, True])
def test_storages_of_the_same_values_are_the_same(select: bool) -> None:
    compact = call(5, K=192, T=40, B=2, storage="compact", select=select)
    expected = np.array(sparse_attention(**compact))
    for storage in ("float32", "bfloat16"):
        rows = {
            name: store(load_stored(compact[name], 192, 32, "latent"), storage, "latent", 32)
            for name in ("window", "entries")
        }
        found = sparse_attention(**{**compact, **rows})
        np.testing.assert_array_equal(np.array(found), expected)


@pytest.mark.parametrize("sizes", UNSEEN, ids=sizes_id)
def test_nan_in_what_nobody_sees_reaches_nobody(sizes: dict[str, Any]) -> None:
    arguments = call(**sizes, seed=4)
    expected = finite(sparse_attention(**arguments))
    np.testing.assert_array_equal(finite(sparse_attention(**poisoned(arguments))), expected)


def test_nan_in_a_selected_entry_reaches_its_queries_alone() -> None:
    arguments = call(4, T=9, select=True, most=3)
    chosen = np.array(arguments["selected"])[0]
    victim = next(e for e in chosen.ravel() if e >= 0)
    arguments["entries"][:, int(victim)] = NAN
    broken = np.isnan(np.array(sparse_attention(**arguments))[0]).all(axis=(1, 2))
    np.testing.assert_array_equal(broken, (chosen == victim).any(axis=1))


def test_gradients_flow_to_queries_rows_entries_and_sinks() -> None:
    arguments = call(3, T=5, select=True, first=20, official=False)
    names = ("q", "window", "sinks", "entries")

    def total(*arrays: mx.array) -> mx.array:
        return (
            sparse_attention(**{**arguments, **dict(zip(names, arrays, strict=True))})
            .square()
            .sum()
        )

    gradients = mx.grad(total, argnums=range(4))(*(arguments[name] for name in names))
    for name, gradient in zip(names, gradients, strict=True):
        direction = normal(*gradient.shape, seed=9)
        sides = [
            total(*(arguments[n] + (step * direction if n == name else 0) for n in names))
            for step in (1e-2, -1e-2)
        ]
        slope = (sides[0] - sides[1]).item() / 2e-2
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=2e-2, abs=2e-3), name


@pytest.mark.parametrize("case", KERNEL.cases, ids=lambda case: case.id)
def test_the_reference_is_the_float64_result(case: Case) -> None:
    arguments = case.make(7)
    assert_is_attention(sparse_attention(**arguments), arguments)


@pytest.mark.parametrize("case", ROUNDED, ids=lambda case: case.id)
def test_weights_that_are_not_rounded_are_noticed(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, attend = case.make(7), reference.attend
    monkeypatch.setattr(reference, "attend", lambda *a, official: attend(*a, official=False))
    with pytest.raises(AssertionError):
        assert_is_attention(sparse_attention(**arguments), arguments)
