"""Index scores and exact top-k selection of compressed entries (paper §2.3.1)."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.index_topk import launch
from metal_kernels.index_topk.reference import index_topk
from metal_kernels.shared.formats import RowStorage, fp4_roundtrip, store

# Powers of two keep float32 exact; the model's scale, (H K)^-1/2, need not be one.
_SCALE = 2.0**-6


def _case(
    name: str,
    B: int,
    S: int,
    H: int,
    T: int,
    k: int,
    first: int,
    *,
    K: int = 128,
    storage: RowStorage = "float32",
    ties: bool = False,
) -> Case:
    """Values of few bits, as the cache's rounding leaves them: every order of summation is exact.

    So float32 decides no tie, and any implementation selects the same.
    """

    def make(seed: int) -> dict[str, object]:
        q, keys = random_normal(seed, B, S, H, K), random_normal(seed + 1, B, T, K)
        q, keys = (mx.round(x) if ties else fp4_roundtrip(x) for x in (q, keys))
        weights = mx.round(2 * random_normal(seed + 2, B, S, H)) / 2
        return {
            "index_q": q,
            "head_weights": weights,
            "keys": store(keys, storage, "key"),
            "first_position": first,
            "ratio": 4,
            "k": k,
            "scale": _SCALE,
        }

    return Case(name, make)


def _relu_plateau(seed: int) -> dict[str, object]:
    """Most scores are exactly zero and the boundary falls inside the plateau."""
    arguments = _case("", 1, 3, 4, 600, 64, 2400).make(seed)
    keys = arguments["keys"]
    assert isinstance(keys, mx.array)
    arguments["keys"] = mx.where(mx.arange(600)[:, None] % 16 == 3, keys, 0.0)
    return arguments


KERNEL = Kernel(
    name="index_topk",
    summary="lightning-indexer scores and exact top-k, ties to the lowest index",
    reference=index_topk,
    # A key row is K numbers or, packed, K / 2 + ceil(K / 32) bytes: R elements.
    inputs={"index_q": "B S H K", "head_weights": "B S H", "keys": "B T R"},
    outputs={"selected": "B S k"},
    tolerance=0.0,
    launches=on_gpus(launch.index_topk),
    moving=("first_position",),
    sizes=(
        Size(
            _case("flash-decode-8k", 1, 1, 64, 2048, 512, 8191, storage="compact"),
            2 * 64 * 128 * 2048,
        ),
        Size(
            _case("flash-decode-1m", 1, 1, 64, 262144, 512, 1048575, storage="compact"),
            2 * 64 * 128 * 262144,
        ),
        Size(
            _case("flash-prefill-8k", 1, 512, 64, 2048, 512, 7680, storage="compact"),
            512 * 2 * 64 * 128 * 2048,
        ),
    ),
    cases=(
        _case("decode", 1, 1, 64, 5000, 512, 19999, storage="compact"),
        _case("fewer-than-k", 2, 5, 32, 40, 512, 155, storage="bfloat16"),
        _case("boundary-inside-chunk", 1, 33, 32, 70, 16, 250),
        _case("narrow-heads", 3, 2, 4, 129, 32, 515, K=32, storage="compact"),
        _case("ties", 1, 7, 8, 513, 64, 2048, ties=True),
        Case("relu-plateau", _relu_plateau),
    ),
)
