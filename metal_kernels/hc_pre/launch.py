"""Geometry of the mix and of the collapse before a sublayer: two launches."""

import mlx.core as mx

from metal_kernels.contract import ContractError
from metal_kernels.registry import kernels
from metal_kernels.sources import Outputs, Template, launch

MOST_STREAMS = 8
# Simdgroups of a first-launch threadgroup, which share the rows of fn.
_SIMDGROUPS = 8
# Values of a token that such a threadgroup owns, over all streams: with 4 streams of 4096 channels
# that makes 64 threadgroups, enough for a large GPU at one token.
_VALUES = 256
# Tokens for which a weight of fn is read once; each count compiles anew.
_TILES = (1, 4, 16)
# Half of what a threadgroup may have: a thread then may use twice the registers.
_MOST_THREADS = 512


def hc_pre(
    backend: str,
    streams: mx.array,
    fn: mx.array,
    base: mx.array,
    scale: mx.array,
    norm_weight: mx.array,
    *,
    iters: int,
    hc_eps: float,
    norm_eps: float,
    official: bool,
) -> tuple[mx.array, mx.array, mx.array]:
    """Streams [B, S, N, D] -> normed [B, S, D], post [B, S, N], comb [B, S, N, N]: two launches.

    The first reads the streams, `4 B S N D` bytes, and fn, `4 (2 + N) N N D` bytes, once for every
    16 tokens: at one token of the released sizes (N 4, D 4096) 1.64 MB. The second reads the
    streams again and writes `4 B S D` bytes. A token's numbers do not depend on how many there are.
    """
    sizes = kernels()["hc_pre"].check(
        {"streams": streams, "fn": fn, "base": base, "scale": scale, "norm_weight": norm_weight}
    )
    check_rows("hc_pre", fn, sizes["N"], sizes["D"], rows=(2 + sizes["N"]) * sizes["N"])
    partials = mix(backend, streams, fn)
    return collapse(
        backend, streams, partials, base, scale, norm_weight,
        iters=iters, hc_eps=hc_eps, norm_eps=norm_eps, official=official,
    )  # fmt: skip


def check_rows(kernel: str, fn: mx.array, N: int, D: int, rows: int) -> None:
    """Raise ContractError where fn is not [rows, N D] or the texts have too few lanes for N."""
    if N > MOST_STREAMS:
        raise ContractError(
            f"{kernel}: expected N in 1..{MOST_STREAMS} but found {N}; "
            "run the reference with --backend cpu"
        )
    if fn.shape != (rows, N * D):
        raise ContractError(
            f"{kernel}: expected fn as [{rows}, {N * D}] for {N} streams of {D} channels "
            f"but found shape {fn.shape}"
        )


def mix(backend: str, streams: mx.array, fn: mx.array) -> mx.array:
    """Partial sums [B S, slices, M + 1] of `fn @ flatten(streams)`, last those of the squares."""
    (partials,) = first_launch(backend, "hc_mix", {"streams": streams, "fn": fn}, {})
    return partials


def first_launch(
    backend: str, text: str, inputs: dict[str, mx.array], outputs: Outputs, **template: Template
) -> tuple[mx.array, ...]:
    """A text that ends with `mix_slice`; its partial sums are the last output."""
    B, S, N, D = inputs["streams"].shape
    M, tokens = inputs["fn"].shape[0], B * S
    width, slices = _slices(N, D)
    tile = next((n for n in _TILES if n >= tokens), _TILES[-1])
    threads = 32 * _SIMDGROUPS
    return launch(
        backend,
        text,
        inputs=inputs,
        outputs={**outputs, "partials": ((tokens, slices, M + 1), mx.float32)},
        grid=(slices * -(-tokens // tile) * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        template={
            **template,
            "N": N,
            "D": D,
            "M": M,
            "WIDTH": width,
            "TOKENS": tile,
            "SIMDGROUPS": _SIMDGROUPS,
        },
    )


def _slices(N: int, D: int) -> tuple[int, int]:
    """Channels of a slice, whole simdgroups of them, and the number of slices."""
    width = max(32, _VALUES // N // 32 * 32)
    return width, -(-D // width)


def collapse(
    backend: str,
    streams: mx.array,
    partials: mx.array,
    base: mx.array,
    scale: mx.array,
    norm_weight: mx.array,
    *,
    iters: int,
    hc_eps: float,
    norm_eps: float,
    official: bool,
) -> tuple[mx.array, mx.array, mx.array]:
    """The second launch: normed [B, S, D], post [B, S, N], comb [B, S, N, N] of partial sums."""
    B, S, N, D = streams.shape
    threads = threads_per_token(D)
    # Sinkhorn takes one simdgroup per token, beside the threadgroup that collapses it.
    groups = B * S + -(-B * S // (threads // 32))
    normed, post, comb = launch(
        backend,
        "hc_collapse",
        inputs={
            "streams": streams,
            "partials": partials,
            "base": base,
            "scale": scale,
            "norm_weight": norm_weight,
            "iters": iters,
            "hc_eps": float(hc_eps),
            "norm_eps": float(norm_eps),
        },
        outputs={
            "normed": ((B, S, D), mx.float32),
            "post": ((B, S, N), mx.float32),
            "comb": ((B, S, N, N), mx.float32),
        },
        grid=(groups * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        template=second_template(partials, N, D, official),
    )
    return normed, post, comb


def threads_per_token(D: int) -> int:
    """Whole simdgroups, up to a thread for each channel."""
    return min(_MOST_THREADS, -(-D // 32) * 32)


def second_template(partials: mx.array, N: int, D: int, official: bool) -> dict[str, Template]:
    """Template values of the texts that begin with `mix_rows`."""
    return {
        "N": N,
        "D": D,
        "SLICES": partials.shape[1],
        "THREADS": threads_per_token(D),
        "OFFICIAL": official,
    }
