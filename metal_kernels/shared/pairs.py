"""Threadgroups whose threads hold a pair of neighbouring dims each: RoPE turns just such pairs."""

from metal_kernels.contract import ContractError

MOST_THREADS = 1024


def pair_threads(kernel: str, letter: str, width: int) -> int:
    """Threads for `width` dims, whole simdgroups; raises ContractError where they do not fit."""
    if width % 2 or not 0 < width <= 2 * MOST_THREADS:
        raise ContractError(
            f"{kernel}: expected an even {letter} of at most {2 * MOST_THREADS} but found {width}; "
            "run the reference with --backend cpu."
        )
    return -(-width // 64) * 32


def check_rope(kernel: str, pairs: int, width: int) -> None:
    """Raise ContractError where the tables rotate more dims than there are."""
    if 2 * pairs > width:
        raise ContractError(
            f"{kernel}: expected cos and sin of at most {width // 2} pairs for {width} dims "
            f"but found {pairs}."
        )
