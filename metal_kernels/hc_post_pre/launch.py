"""Geometry of hc_post and hc_pre in two launches: the expansion rides in the mix."""

import mlx.core as mx

from metal_kernels.contract import Call
from metal_kernels.hc_pre.launch import check_rows, collapse, first_launch
from metal_kernels.sources import Prepared


def hc_post_pre(call: Call) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """-> streams [B, S, N, D], normed [B, S, D], post [B, S, N], comb [B, S, N, N]: two launches.

    They read `4 B S (1 + 2 N) D` bytes and fn, and write `4 B S (N + 1) D`. hc_post and hc_pre one
    after the other take a launch and `4 B S N D` bytes more; the numbers are theirs bit for bit.
    """
    first, arrays = call.keep(_first), call.arrays
    mixed, partials = first(
        arrays["y"], arrays["streams"], arrays["post"], arrays["comb"], arrays["fn"]
    )
    return mixed, *collapse(call, mixed, partials)


def _first(call: Call) -> Prepared:
    N = call.sizes["N"]
    check_rows(call, (2 + N) * N)
    return first_launch(
        call,
        "hc_post_mix",
        ("y", "streams", "post", "comb", "fn"),
        {"mixed": (call.arrays["streams"].shape, mx.float32)},
        OFFICIAL=call.options["official"],
    )
