"""The products and the attention that a self-test compares: what it looks at, reads and finds."""

from dataclasses import replace
from typing import Any

import pytest

from dsv4_mlx.exact_rows.attention import AttentionCalls, compared_attention, places
from dsv4_mlx.exact_rows.finding import rows_alike
from dsv4_mlx.exact_rows.products import (
    MOST_BYTES,
    WeightReads,
    compared,
    forms,
    products,
    timed,
)
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.packed import Packed
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import FLASH, PRO, DeepseekV4Config
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.tracing import release_plan
from dsv4_mlx.unloaded import place_zeros
from dsv4_mlx.warm_up import shortened
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels.registry import bind
from tests.exact_rows.breaking import broken_at
from tests.model.row_exact import row_exact_plan


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny model as a GPU has it; none of its kernels runs."""
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), TINY, tokenizer=False)
    return load_model(open_checkpoint(folder), kernels=bind("metal"))


def ops(broken: str = "", at: int = 9) -> Any:
    """Ops of exact rows, of which `broken` adds up otherwise from `at` rows on."""
    return broken_at(row_exact_plan(), broken, at).ops


def test_every_form_of_a_layer_is_compared_once(tiny: Model) -> None:
    chosen = forms(tiny)
    assert len({one.form for one in chosen}) == len(chosen)
    layers, after = products(tiny)
    every = [one for layer in layers for one in layer] + after
    assert {one.form for one in every} == {one.form for one in chosen}
    assert len(chosen) < len(every) / 2
    kinds = {(one.kind, isinstance(one.matrix, Packed)) for one in chosen}
    assert {("rows", True), ("rows", False), ("groups", True), ("experts", True)} <= kinds
    assert {one.parts for one in chosen if one.kind == "experts"} == {TINY.num_experts_per_tok}
    whole = next(one for one in every if one.kind == "experts")
    assert replace(whole, parts=6).part(1).parts == 3


def test_kernels_that_keep_bits_allow_eight_rows(tiny: Model) -> None:
    reads = WeightReads()
    found = compared(forms(tiny), ops(), reads)
    assert set(found.values()) == {8} and 0 < reads.nbytes < 6e6


@pytest.mark.parametrize(
    ("name", "at", "part"),
    [
        ("packed_matvec", 5, "self_attn.o_b_proj"),
        ("packed_matvec", 2, "self_attn.o_a_proj"),
        ("expert_matvec", 8, "experts.down_proj"),
        ("dense_matvec", 3, "lm_head"),
    ],
)
def test_a_product_that_breaks_lowers_the_rows(tiny: Model, name: str, at: int, part: str) -> None:
    chosen = [one for one in forms(tiny) if part in one.name and "shared" not in one.name]
    found = compared(chosen, ops(name, at), WeightReads())
    assert chosen and set(found.values()) == {at - 1}


def test_what_may_not_be_read_allows_one_row(tiny: Model) -> None:
    chosen = forms(tiny)
    reads = WeightReads(chosen[0].read_bytes(8))
    found = compared(chosen, ops(), reads)
    assert [*found.values()][:1] == [8] and 1 in found.values()
    assert reads.nbytes <= reads.limit


@pytest.mark.parametrize("config", [FLASH, PRO], ids=["flash", "pro"])
def test_a_release_s_tests_read_at_most_a_gigabyte(config: DeepseekV4Config) -> None:
    """Its products of every form, and whole layers to time; nothing is evaluated."""
    config = shortened(config)
    model = Model(config, Numerics.OFFICIAL, plan=bind("metal"))
    place_zeros(model, release_plan(config), "BF16")
    reads = WeightReads()
    assert all(reads.allow(one.read_bytes(8)) for one in forms(model))
    before = reads.nbytes
    chosen = timed(model, reads)
    assert reads.nbytes - before == sum(one.read_bytes(1) for one in chosen)
    assert 0.5e9 < reads.nbytes <= MOST_BYTES == 10**9
    layers = [one.name.split(".")[1] for one in chosen]
    assert len({*layers}) == (3 if config.hidden_size == 4096 else 1)
    for kind, count in (("experts", 2), ("groups", 1)):
        assert len([one for one in chosen if one.kind == kind]) == count * len({*layers})


def test_layers_that_are_timed_are_whole_and_spread(tiny: Model) -> None:
    every, _ = products(tiny)
    whole = timed(tiny, WeightReads())
    packed = [one.name for layer in every for one in layer if isinstance(one.matrix, Packed)]
    assert [one.name for one in whole] == packed
    # Room for two of six layers, and for less than one.
    sizes = [
        sum(one.read_bytes(1) for one in layer if isinstance(one.matrix, Packed))
        for layer in every
    ]  # fmt: skip
    two = timed(tiny, WeightReads(max(sizes) * 2 + 100))
    assert [*dict.fromkeys(one.name.split(".")[1] for one in two)] == ["1", "4"]
    assert 0 < len(timed(tiny, WeightReads(min(sizes) // 2))) < len(every[3])


@pytest.mark.parametrize("config", [FLASH, PRO, TINY], ids=["flash", "pro", "tiny"])
def test_places_cross_splits_of_every_kind_of_layer(config: DeepseekV4Config) -> None:
    found = places(config)
    ratios = {role.ratio for role in config.layer_roles}
    assert {place.ratio for place in found} == ratios | {0}
    for place in found:
        keys = [
            min(position + 1, config.sliding_window)
            + ((position + 1) // place.ratio if place.ratio else 0)
            for position in range(place.first, place.first + 8)
        ]
        if place.selected is None:
            assert keys[0] // 32 < keys[-1] // 32, place
        else:
            entries = [(place.first + s) // place.ratio for s in (1, 8)]
            assert entries[0] <= place.selected < entries[1], place


def test_attention_of_a_block_is_compared_with_steps(tiny: Model) -> None:
    found = compared_attention(tiny, ops())
    assert len(found) == len(places(TINY)) and set(found.values()) == {8}


def test_attention_whose_neighbours_decide_lowers_the_rows(tiny: Model) -> None:
    place = places(TINY)[1]
    assert rows_alike(AttentionCalls(tiny, place, ops("sparse_attention", 4)).run) == 3
