"""Window + compressed entries + sinks + inverse RoPE (paper §2.3)."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.shared.formats import RowStorage, fp8_kv, store
from metal_kernels.sparse_attention.launch import MOVING
from metal_kernels.sparse_attention.launch import sparse_attention as fused
from metal_kernels.sparse_attention.reference import sparse_attention

_WINDOW = 128

# A number that bf16 rounds is off by 2^-8 of itself at most, by 2^-9.2 in the mean square. Where
# an implementation rounds weights relative to a power of two, its weights and the reference's are
# off independently, and so are the outputs rounded afterwards: 4 * 2^-18.4 = 1.1e-5 of squared
# error. Few heads and keys are no mean, so that three times as much is allowed.
_TOLERANCE = 2.0**-15


def _latents(seed: int, B: int, n: int, K: int, pairs: int, storage: RowStorage) -> mx.array:
    """Random rows as a cache keeps them: [B, n, *]."""
    rows = random_normal(seed, B, n, K)
    rows = rows if storage == "float32" else fp8_kv(rows, 2 * pairs)
    return store(rows, storage, "latent", 2 * pairs)


def _selected(seed: int, B: int, S: int, T: int, k: int, visible: mx.array) -> mx.array:
    """Random visible entries in any order, -1 where the order meets a later one."""
    order = mx.argsort(random_normal(seed, B, S, T), axis=-1)[..., :k].astype(mx.int32)
    return mx.where(order < visible[:, None], order, -1)


def _case(
    name: str,
    S: int,
    H: int,
    K: int,
    first: int,
    *,
    B: int = 1,
    ratio: int = 0,
    T: int | None = None,
    k: int = 0,
    pairs: int = 32,
    storage: RowStorage = "float32",
    rows: int = 0,
    origin: int | None = None,
    official: bool = True,
) -> Case:
    """`rows` window rows, by default the fewest; `origin` None puts the oldest first."""

    def make(seed: int) -> dict[str, object]:
        n = rows or min(first, _WINDOW - 1) + S
        visible = (mx.arange(first, first + S) + 1) // max(ratio, 1)
        return {
            "q": random_normal(seed, B, S, H, K),
            "window": _latents(seed + 1, B, n, K, pairs, storage),
            "sinks": random_normal(seed + 2, H),
            "cos": random_normal(seed + 3, S, pairs),
            "sin": random_normal(seed + 4, S, pairs),
            "entries": None if T is None else _latents(seed + 5, B, T, K, pairs, storage),
            "selected": _selected(seed + 6, B, S, T, k, visible) if T and k else None,
            "first_position": first,
            "origin": first + S - n if origin is None else origin,
            "ratio": ratio,
            "sliding_window": _WINDOW,
            "official": official,
        }

    return Case(name, make)


def _flops(queries: int, keys: int) -> int:
    """Scores and weighted sums of Flash's 64 heads."""
    return queries * keys * 64 * 2 * 512 * 2


KERNEL = Kernel(
    name="sparse_attention",
    summary="sinks attention over window and selected entries, with inverse RoPE",
    reference=sparse_attention,
    inputs={
        "q": "B S H K",
        "window": "B n W",
        "sinks": "H",
        "cos": "S P",
        "sin": "S P",
        "entries": "B T W",
        "selected": "B S k",
    },
    outputs={"output": "B S H K"},
    tolerance=_TOLERANCE,
    launches=on_gpus(fused),
    moving=MOVING,
    sizes=(
        Size(_case("flash-sliding-decode", 1, 64, 512, 8191, storage="compact"), _flops(1, 128)),
        Size(
            _case("flash-csa-decode", 1, 64, 512, 8191, ratio=4, T=2048, k=512, storage="compact"),
            _flops(1, 128 + 512),
            nbytes=2 * 4 * 64 * 512 + (128 + 512) * 583 + 4 * 512,
        ),
        Size(
            _case("flash-hca-decode-1m", 1, 64, 512, 1048575, ratio=128, T=8192, storage="compact"),
            _flops(1, 128 + 8192),
        ),
        Size(
            _case(
                "flash-csa-prefill", 64, 64, 512, 8128, ratio=4, T=2048, k=512, storage="compact"
            ),
            _flops(64, 128 + 512),
        ),
    ),
    cases=(
        _case("first-token", 1, 4, 128, 0),
        _case("first-token-of-a-ring", 1, 4, 128, 0, rows=128, origin=0, storage="compact"),
        _case("window-only", 5, 3, 128, 200),
        _case("window-cut-short", 3, 4, 64, 200, rows=70, ratio=128, T=1, pairs=16),
        _case("ring-that-wraps", 5, 5, 64, 200, rows=140, origin=0, pairs=16, storage="bfloat16"),
        _case("plain-numerics", 7, 3, 128, 45, B=3, ratio=4, T=13, k=5, official=False),
        _case("width-of-100", 5, 3, 100, 60, ratio=4, T=17, k=5, pairs=10, storage="compact"),
        _case("no-entries-yet", 3, 4, 128, 0, ratio=128, T=0, storage="compact"),
        _case("hca-decode", 1, 64, 512, 4095, ratio=128, T=32, storage="compact"),
        _case("hca-chunk", 131, 4, 128, 250, ratio=128, T=2),
        _case(
            "csa-decode", 1, 64, 512, 4095, ratio=4, T=1024, k=512,
            storage="compact", rows=128, origin=77,
        ),
        _case("csa-decode-bf16", 1, 9, 512, 2051, ratio=4, T=513, k=131, storage="bfloat16"),
        _case("csa-chunk-with-holes", 9, 4, 128, 60, ratio=4, T=17, k=16),
        _case("csa-batch-with-holes", 7, 5, 192, 60, B=3, ratio=4, T=17, k=16, storage="compact"),
    ),
)  # fmt: skip
