"""Geometry of the mix and of the collapse before a sublayer: two launches."""

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.shared.threadgroups import MOST_THREADS
from metal_kernels.sources import Outputs, Prepared, Template

MOST_STREAMS = 8
# Values of a token that such a threadgroup owns, over all streams: with 4 streams of 4096 channels
# that makes 64 threadgroups, enough for a large GPU at one token.
_VALUES = 256
# Tokens for which a weight of fn is read once; each count compiles anew.
_TILES = (1, 4, 16)


def hc_pre(call: Call) -> tuple[mx.array, mx.array, mx.array]:
    """Streams [B, S, N, D] -> normed [B, S, D], post [B, S, N], comb [B, S, N, N]: two launches.

    The first reads the streams, `4 B S N D` bytes, and fn, `4 (2 + N) N N D` bytes, once for every
    16 tokens: at one token of the released sizes (N 4, D 4096) 1.64 MB. The second reads the
    streams again and writes `4 B S D` bytes. A token's numbers do not depend on how many there are.
    """
    call.keep(_checked)
    return collapse(call, call.arrays["streams"], mix(call))


def _checked(call: Call) -> bool:
    N = call.sizes["N"]
    check_rows(call, (2 + N) * N)
    return True


def check_rows(call: Call, rows: int) -> None:
    """Raise ContractError where fn is not [rows, N D] or the texts have too few lanes for N."""
    N, D, found = call.sizes["N"], call.sizes["D"], call.arrays["fn"].shape
    if N > MOST_STREAMS:
        raise ContractError(
            f"{call.kernel}: expected N in 1..{MOST_STREAMS} but found {N}; "
            "run the reference with --backend cpu."
        )
    if found != (rows, N * D):
        raise ContractError(
            f"{call.kernel}: expected fn as [{rows}, {N * D}] for {N} streams of {D} channels "
            f"but found shape {found}."
        )


def mix(call: Call) -> mx.array:
    """Partial sums [B S, M + 1, slices] of the squares, then of `fn @ flatten(streams)`."""
    (partials,) = call.keep(_mix)(call.arrays["streams"], call.arrays["fn"])
    return partials


def _mix(call: Call) -> Prepared:
    return first_launch(call, "hc_mix", ("streams", "fn"), {})


def first_launch(
    call: Call, text: str, inputs: tuple[str, ...], outputs: Outputs, **template: Template
) -> Prepared:
    """A text that ends with `mix_slice`; its partial sums are the last output."""
    B, S, N, D = call.arrays["streams"].shape
    M, tokens = call.arrays["fn"].shape[0], B * S
    width, slices = _slices(N, D)
    tile = next((n for n in _TILES if n >= tokens), _TILES[-1])
    threads = MOST_THREADS[text]
    return Prepared(
        call.backend,
        text,
        arrays=inputs,
        outputs={**outputs, "partials": ((tokens, M + 1, slices), mx.float32)},
        grid=(slices * -(-tokens // tile) * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        template={
            **template,
            "N": N,
            "D": D,
            "M": M,
            "WIDTH": width,
            "TOKENS": tile,
            "SIMDGROUPS": threads // 32,
        },
    )


def _slices(N: int, D: int) -> tuple[int, int]:
    """Channels of a slice, whole simdgroups of them, and the number of slices."""
    width = max(32, _VALUES // N // 32 * 32)
    return width, -(-D // width)


def collapse(
    call: Call, streams: mx.array, partials: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """The second launch: normed [B, S, D], post [B, S, N], comb [B, S, N, N] of partial sums."""
    arrays = call.arrays
    normed, post, comb = call.keep(_collapse)(
        streams, partials, arrays["base"], arrays["scale"], arrays["norm_weight"]
    )
    return normed, post, comb


def _collapse(call: Call) -> Prepared:
    (B, S, N, D), options = call.arrays["streams"].shape, call.options
    threads = threads_per_token("hc_collapse", D)
    # Sinkhorn takes one simdgroup per token, beside the threadgroup that collapses it.
    groups = B * S + -(-B * S // (threads // 32))
    return Prepared(
        call.backend,
        "hc_collapse",
        arrays=("streams", "partials", "base", "scale", "norm_weight"),
        scalars={
            "iters": options["iters"],
            "hc_eps": float(options["hc_eps"]),
            "norm_eps": float(options["norm_eps"]),
        },
        outputs={
            "normed": ((B, S, D), mx.float32),
            "post": ((B, S, N), mx.float32),
            "comb": ((B, S, N, N), mx.float32),
        },
        grid=(groups * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        template=second_template("hc_collapse", call),
    )


def threads_per_token(text: str, D: int) -> int:
    """Whole simdgroups, up to a thread for each channel."""
    return min(MOST_THREADS[text], -(-D // 32) * 32)


def second_template(text: str, call: Call) -> dict[str, Template]:
    """Template values of the texts that begin with `sum_slices`."""
    D = call.sizes["D"]
    return {
        "N": call.sizes["N"],
        "D": D,
        "SLICES": _slices(call.sizes["N"], D)[1],
        "THREADS": threads_per_token(text, D),
        "OFFICIAL": call.options["official"],
    }
