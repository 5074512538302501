"""Which product multiplies the experts' rows of a chunk on a GPU, by what each has to do.

MLX has two: below four rows per expert one vector product for each row, which reads a matrix every
time; from there on tiles of 16 sorted rows, all of them multiplied once for every expert that has a
row among them. Ours (`expert_matmul`) has whole blocks of one expert. Experts count as drawn
uniformly; a router that prefers some has fewer of them in a chunk, in favour of blocks.
"""

from functools import lru_cache
from math import ceil, exp, lgamma, log, log1p

from metal_kernels.expert_matmul.launch import multiplied_rows

MLX_TILE = 16
MLX_ROWS_PER_EXPERT = 4
"""From here on MLX sorts into tiles."""


def takes_blocks(tokens: int, chosen: int, experts: int) -> bool:
    """Whether blocks of one expert read fewer matrices than MLX, or multiply fewer rows."""
    if tokens * chosen < MLX_ROWS_PER_EXPERT * experts:
        return matrices_read(tokens, chosen, experts) < tokens * chosen
    return rows_of_blocks(tokens, chosen, experts) < rows_of_mlx(tokens, chosen, experts)


def matrices_read(tokens: int, chosen: int, experts: int) -> float:
    """Experts that `tokens` choose together, of which each chooses `chosen`; expected."""
    return experts * (1 - (1 - chosen / experts) ** tokens)


def rows_of_mlx(tokens: int, chosen: int, experts: int) -> float:
    """Rows that MLX's tiles multiply; expected.

    Each tile is multiplied for its first expert, and again for every other that begins inside.
    """
    tiles = ceil(tokens * chosen / MLX_TILE)
    begins = (matrices_read(tokens, chosen, experts) - 1) * (MLX_TILE - 1) / MLX_TILE
    return MLX_TILE * (tiles + begins)


@lru_cache(64)
def rows_of_blocks(tokens: int, chosen: int, experts: int) -> float:
    """Rows that blocks of one expert multiply; expected, the rows of an expert being binomial."""
    share = chosen / experts
    if share >= 1:
        return float(experts * multiplied_rows(tokens))
    total = 0.0
    for rows in range(1, tokens + 1):
        ways = lgamma(tokens + 1) - lgamma(rows + 1) - lgamma(tokens - rows + 1)
        probability = exp(ways + rows * log(share) + (tokens - rows) * log1p(-share))
        total += probability * multiplied_rows(rows)
    return experts * total
