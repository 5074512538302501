"""Which product the experts' rows take: the rule counts, as drawn experts would have it."""

import numpy as np
import pytest

from dsv4_mlx.model.expert_rows import matrices_read, rows_of_blocks, rows_of_mlx, takes_blocks
from metal_kernels.expert_matmul.launch import multiplied_rows

FLASH = (6, 256)


def drawn(tokens: int, chosen: int, experts: int, seed: int) -> np.ndarray:
    """Rows of each expert where every token draws its own without repetition."""
    rng = np.random.default_rng(seed)
    picks = rng.random((tokens, experts)).argsort(axis=1)[:, :chosen]
    return np.bincount(picks.ravel(), minlength=experts)


def multiplied_by_mlx(counts: np.ndarray) -> int:
    """MLX's loop over a tile of 16 sorted rows: all rows once for each expert among them."""
    experts = np.repeat(np.arange(len(counts)), counts)
    tiles = [experts[start : start + 16] for start in range(0, len(experts), 16)]
    return 16 * sum(len(np.unique(tile)) for tile in tiles)


@pytest.mark.parametrize("tokens", [171, 512, 2048])
def test_the_expected_counts_are_those_of_drawn_experts(tokens: int) -> None:
    """Means of five draws; the spread of one is a percent."""
    draws = [drawn(tokens, *FLASH, seed) for seed in range(5)]
    read = np.mean([np.count_nonzero(counts) for counts in draws])
    mlx = np.mean([multiplied_by_mlx(counts) for counts in draws])
    ours = np.mean([sum(map(multiplied_rows, counts.tolist())) for counts in draws])
    assert matrices_read(tokens, *FLASH) == pytest.approx(read, rel=0.02)
    assert rows_of_mlx(tokens, *FLASH) == pytest.approx(mlx, rel=0.02)
    assert rows_of_blocks(tokens, *FLASH) == pytest.approx(ours, rel=0.02)


@pytest.mark.parametrize(
    ("tokens", "mlx", "ours"), [(512, 2.25, 1.30), (1024, 1.62, 1.14), (2048, 1.31, 1.07)]
)
def test_rows_multiplied_for_every_row_of_flash(tokens: int, mlx: float, ours: float) -> None:
    needed = 6 * tokens
    assert rows_of_mlx(tokens, *FLASH) / needed == pytest.approx(mlx, abs=0.006)
    assert rows_of_blocks(tokens, *FLASH) / needed == pytest.approx(ours, abs=0.006)


@pytest.mark.parametrize(
    ("tokens", "chosen", "experts", "blocks"),
    [
        (11, *FLASH, True),  # 59 matrices instead of 66
        (170, *FLASH, True),  # 251 instead of 1,020
        (171, *FLASH, True),
        (2048, *FLASH, True),
        (11, 6, 384, True),
        (64, 1, 1, False),  # 64 rows either way
        (68, 1, 1, True),  # 68 rows instead of 80
    ],
)
def test_the_rule(tokens: int, chosen: int, experts: int, blocks: bool) -> None:
    assert takes_blocks(tokens, chosen, experts) == blocks


def test_an_expert_that_all_choose_is_counted_without_chance() -> None:
    assert rows_of_blocks(69, 2, 2) == 2 * 72
