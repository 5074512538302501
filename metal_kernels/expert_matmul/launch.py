"""Geometry of the experts' product: blocks of rows that have one expert, then a tile of each."""

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.shared.threadgroups import MOST_THREADS
from metal_kernels.sources import launch

BLOCK_ROWS = 32
"""Rows of a block at most; all of them have one expert."""
TILE_ROWS = 8
"""Rows that are multiplied together; a tile without rows costs nothing."""
FEW_ROWS = 4
"""Rows of a block that are multiplied one by one, at most."""
_GROUP = 32
# Outputs of a threadgroup, by text.
_MATRIX_OUTPUTS, _FMA_OUTPUTS = 64, 32
_THREADS = 128


def expert_matmul(call: Call) -> mx.array:
    """x [M, in], codes, scales, experts [R], rows [R] -> [R, out]; two launches.

    The first finds the blocks: at most 32 rows of one expert each. The second reads an expert's
    matrix once for every block, `in out (1/2 + 1/32)` bytes, and multiplies rows by eights, up to
    four one by one: `2 in out` FLOPs for each of `multiplied_rows`. CUDA knows eights alone.
    """
    _check(call)
    E, R, out = (call.sizes[letter] for letter in ("E", "R", "out"))
    blocks = most_blocks(R, E)
    (table,) = launch(
        call.backend,
        "expert_blocks",
        inputs={"experts": call.arrays["experts"], "blocks": blocks},
        outputs={"table": ((blocks, 3), mx.int32)},
        grid=(MOST_THREADS["expert_blocks"], 1, 1),
        threadgroup=(MOST_THREADS["expert_blocks"], 1, 1),
        template={"EXPERTS": E, "BLOCK": BLOCK_ROWS},
    )
    # The prelude of CUDA has no matrix instructions.
    on_cuda = call.backend == "cuda"
    tile = _FMA_OUTPUTS if on_cuda else _MATRIX_OUTPUTS
    (product,) = launch(
        call.backend,
        "expert_matmul_fma" if on_cuda else "expert_matmul",
        inputs={
            **{name: call.arrays[name] for name in ("x", "codes", "scales")},
            "rows": call.arrays.get("rows", table),
            "table": table,
        },
        outputs={"product": ((R, out), mx.float32)},
        # Neighbouring threadgroups share the rows of a block, which stay in the cache.
        grid=(-(-out // tile) * _THREADS, blocks, 1),
        threadgroup=(_THREADS, 1, 1),
        template={"GATHERED": "rows" in call.arrays, "BLOCK": BLOCK_ROWS},
    )
    return product


def most_blocks(rows: int, experts: int) -> int:
    """Blocks that so many rows make at most, however the experts are drawn."""
    return (rows + (BLOCK_ROWS - 1) * min(rows, experts)) // BLOCK_ROWS


def multiplied_rows(rows: int) -> int:
    """Rows that the product of one expert multiplies for so many."""
    whole, rest = divmod(rows, BLOCK_ROWS)
    return whole * BLOCK_ROWS + (rest if rest <= FEW_ROWS else -(-rest // TILE_ROWS) * TILE_ROWS)


def _check(call: Call) -> None:
    """Raise ContractError where codes and scales are not MXFP4's of x's width."""
    width, words, groups = (call.sizes[letter] for letter in ("in", "words", "groups"))
    dtypes = [call.arrays[name].dtype for name in ("x", "codes", "scales")]
    if (
        width % _GROUP
        or (words, groups) != (width // 8, width // _GROUP)
        or dtypes != [mx.float32, mx.uint32, mx.uint8]
    ):
        raise ContractError(
            "expert_matmul: expected x float32 [M in], codes uint32 [E out in/8] and scales uint8 "
            f"[E out in/32] with in a multiple of 32 but found in = {width}, {words} words, "
            f"{groups} groups and {', '.join(map(str, dtypes))}."
        )
