"""Pooling of token windows into compressed entries (paper §2.3.1 CSA, §2.3.2 HCA).

NaN in a latent or a score of a window makes its entry NaN, and with overlap (in the channels the
next window pools) the next one's; a score of -inf has weight 0, also in window 0, which has no
previous window, whatever the rows hold there.
"""

from metal_kernels.compress.launch import MOVING
from metal_kernels.compress.launch import compress as fused
from metal_kernels.compress.reference import compress
from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.shared.formats import row_shape

# Tokens of a window, and whether windows overlap.
_CSA, _HCA = (4, True), (128, False)


def _case(
    name: str,
    B: int,
    n: int,
    d: int,
    kind: tuple[int, bool],
    rounding: str,
    *,
    windows: int,
    first: int = 0,
    origin: int = 0,
    columns: tuple[int, int, int] | None = None,
    P: int = 32,
    storage: str = "float32",
) -> Case:
    """`columns`: first of the latents, first of the scores, all; side by side where not given."""
    ratio, overlaps = kind
    c = d * (1 + overlaps)
    kv_column, gate_column, total = columns or (0, c, 2 * c)

    def make(seed: int) -> dict[str, object]:
        return {
            "rows": random_normal(seed, B, n, total),
            "bias": random_normal(seed + 1, ratio, c),
            "norm_weight": 1.0 + 0.1 * random_normal(seed + 2, d),
            "cos": random_normal(seed + 3, windows, P),
            "sin": random_normal(seed + 4, windows, P),
            "origin": origin,
            "first_window": first,
            "windows": windows,
            "ratio": ratio,
            "kv_column": kv_column,
            "gate_column": gate_column,
            "eps": 1e-6,
            "rounding": rounding,
            "storage": storage,
        }

    return Case(name, make)


def _size(
    name: str,
    d: int,
    kind: tuple[int, bool],
    rounding: str,
    *,
    columns: tuple[int, int, int],
    windows: int = 1,
    first: int = 1,
) -> Size:
    ratio, overlaps = kind
    slots = ratio * (1 + overlaps)
    case = _case(
        name, 1, windows * ratio + slots - ratio, d, kind, rounding,
        windows=windows, first=first, columns=columns, storage="compact",
    )  # fmt: skip
    # The bias, a difference, exp, a sum and a product with its sum for a channel of a slot.
    flops = windows * d * (6 * slots + 4)
    # The pooled slots' latents and scores; bias, norm and tables; the entries.
    read = 8 * windows * slots * d + 4 * (slots * d + d + 64 * windows)
    row, _ = row_shape("compact", "key" if rounding == "index" else "latent", d, 64)
    return Size(case, flops=flops, nbytes=read + windows * row)


KERNEL = Kernel(
    name="compress",
    summary="windows of token projections in, pooled, normed, rotated and stored entries out",
    reference=compress,
    inputs={
        "rows": "B n C",
        "bias": "R c",
        "norm_weight": "d",
        "cos": "T P",
        "sin": "T P",
    },
    outputs={"entries": "B T row"},
    tolerance=1e-10,
    grids={"entries": 1.0},
    sizes=(
        _size("flash-csa-decode", 512, _CSA, "kv", first=2047, columns=(0, 1024, 2560)),
        _size("flash-index-decode", 128, _CSA, "index", first=2047, columns=(2048, 2304, 2560)),
        _size("flash-hca-decode", 512, _HCA, "kv", first=63, columns=(0, 512, 1024)),
        _size("flash-csa-prefill", 512, _CSA, "kv", windows=128, columns=(0, 1024, 2560)),
        _size("flash-hca-prefill", 512, _HCA, "kv", windows=4, columns=(0, 512, 1024)),
    ),
    cases=(
        _case("csa-first", 1, 9, 512, _CSA, "kv", windows=2, storage="compact"),
        _case("csa-later", 2, 11, 128, _CSA, "kv", windows=1, first=5, origin=16),
        _case("csa-ring", 1, 11, 96, _CSA, "kv", windows=1, first=1000, P=8, storage="bfloat16"),
        _case("csa-nothing-closes", 1, 3, 128, _CSA, "kv", windows=0, first=1),
        _case("index", 1, 16, 128, _CSA, "index", windows=3, first=1, columns=(1024, 1280, 1536)),
        _case("index-stored", 3, 8, 32, _CSA, "index", windows=1, first=7, P=8, storage="compact"),
        _case("hca", 1, 257, 128, _HCA, "kv", windows=2, storage="compact"),
        _case("hca-ring", 2, 131, 192, _HCA, "kv", windows=1, first=9, origin=5),
        _case("hca-plain", 1, 128, 192, _HCA, "none", windows=1, columns=(192, 0, 400)),
    ),
    launches=on_gpus(fused),
    moving=MOVING,
)
