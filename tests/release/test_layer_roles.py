"""The schedule of a release, as the roles of its layers."""

import pytest

from dsv4_mlx.release.config import FLASH, PRO
from dsv4_mlx.release.layer_roles import COMPRESS_RATIOS, WINDOW_ONLY, LayerRole, layer_role


def sparse(layer: int) -> LayerRole:
    return LayerRole(4, overlaps=True, owns_entries=True, selects=True, source=layer)


def heavy(layer: int) -> LayerRole:
    return LayerRole(128, overlaps=False, owns_entries=True, selects=False, source=layer)


def test_flash_begins_with_two_layers_that_see_their_window_alone() -> None:
    kinds = (sparse, heavy)
    expected = (WINDOW_ONLY, WINDOW_ONLY, *(kinds[layer % 2](layer) for layer in range(2, 43)))
    assert FLASH.layer_roles == expected


def test_every_layer_of_pro_has_entries() -> None:
    kinds = (sparse, heavy)
    expected = (heavy(0), heavy(1), *(kinds[layer % 2](layer) for layer in range(2, 61)))
    assert PRO.layer_roles == expected


def test_a_changed_schedule_changes_the_roles() -> None:
    assert FLASH.layer_roles[2] == sparse(2)
    changed = FLASH.replace(num_hidden_layers=3, compress_ratios=(128, 4, 0))
    assert changed.layer_roles == (heavy(0), sparse(1), WINDOW_ONLY)


@pytest.mark.parametrize(("ratio", "spanned"), [(0, 1), (4, 2), (128, 1)])
def test_only_entries_of_sparse_layers_pool_two_windows(ratio: int, spanned: int) -> None:
    assert ratio in COMPRESS_RATIOS
    assert layer_role(ratio, 7).spanned == spanned


def test_a_layer_without_entries_has_no_source() -> None:
    assert layer_role(0, 7) == WINDOW_ONLY == LayerRole(0, False, False, False, None)
