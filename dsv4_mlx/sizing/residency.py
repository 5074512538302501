"""Whether a model's weights stayed in memory, told by how long one token takes.

Others saw 0.14 tokens/s of two machines that reach 11: the system had taken memory away from the
GPU between loading and the first answer, and every token read its weights from the disk.
"""

from dsv4_mlx.sizing.machines import GIB, wired_limit_mb

SLOWER = 3.0
"""Times the expected time of a token from which something is wrong."""
_BANDWIDTH_SHARE = 0.45  # what other programs reach of the memory's bandwidth
_DISK_RATE = 20e9  # bytes per second that no disk reaches and the memory of every Mac for this does


def expected_seconds(read: int, bandwidth_gb_s: float | None) -> float:
    """Of a token that reads so many bytes of weights, where the memory's bandwidth is known; else
    as long as it takes at a rate that no memory would need."""
    rate = _DISK_RATE * SLOWER if bandwidth_gb_s is None else bandwidth_gb_s * 1e9
    return read / (rate if bandwidth_gb_s is None else _BANDWIDTH_SHARE * rate)


def residency_warning(
    seconds: float, read: int, needed: int, bandwidth_gb_s: float | None = None, macs: int = 1
) -> str:
    """A sentence where a token that reads `read` bytes of weights took far too long; else "".

    `needed` bytes of memory are what the model takes on each of so many `macs`.
    """
    usual = expected_seconds(read, bandwidth_gb_s)
    if seconds <= SLOWER * usual:
        return ""
    where = "on this Mac" if macs == 1 else "on both Macs"
    limit = wired_limit_mb(needed + 2 * GIB)
    return (
        f"one token took {seconds:.2f} s, expected about {usual:.2f} s: the system may have taken "
        f"the model's memory away; `sudo sysctl iogpu.wired_limit_mb={limit}` {where} and a new "
        "start keep it there."
    )
