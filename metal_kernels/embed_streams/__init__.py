"""Token ids -> the residual streams that enter the first layer."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.embed_streams.launch import embed_streams as fused
from metal_kernels.embed_streams.reference import embed_streams


def _case(
    name: str,
    ids: tuple[int, int],
    table: tuple[int, int],
    streams: int = 4,
    *,
    ids_dtype: mx.Dtype = mx.int32,
    dtype: mx.Dtype = mx.bfloat16,
) -> Case:
    """Ids [B, S] of rows of a table [V, D]."""

    def make(seed: int) -> dict[str, object]:
        tokens = mx.random.randint(0, table[0], ids, key=mx.random.key(seed))
        return {
            "tokens": tokens.astype(ids_dtype),
            "table": random_normal(seed + 1, *table).astype(dtype),
            "streams": streams,
        }

    return Case(name, make)


def _size(name: str, tokens: int, width: int) -> Size:
    """Ids and their rows are read once, streams written; the rest of the table is not touched."""
    nbytes = tokens * (4 + 2 * width + 4 * 4 * width)
    return Size(_case(name, (1, tokens), (4096, width)), flops=0, nbytes=nbytes)


KERNEL = Kernel(
    name="embed_streams",
    summary="rows of the embedding by token id, one for each residual stream",
    reference=embed_streams,
    inputs={"tokens": "B S", "table": "V D"},
    outputs={"embedded": "B S N D"},
    tolerance=0.0,
    cases=(
        _case("one-token", (1, 1), (1000, 4096)),
        _case("odd-sizes", (3, 7), (131, 131), 3, dtype=mx.float32),
        _case("one-number", (2, 5), (17, 1), 1, ids_dtype=mx.uint32),
        _case("small-ids", (2, 50), (300, 33), ids_dtype=mx.uint8),
        _case("wide-ids", (1, 50), (7, 257), ids_dtype=mx.int64),
        _case("unsigned-ids", (1, 50), (7, 1028), ids_dtype=mx.uint64),
    ),
    sizes=(
        _size("flash-token", 1, 4096),
        _size("flash-chunk", 512, 4096),
        _size("pro-token", 1, 7168),
    ),
    launches=on_gpus(fused),
)
