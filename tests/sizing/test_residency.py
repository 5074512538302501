"""When a token's time says that weights left the memory."""

import pytest

from dsv4_mlx.sizing.machines import GIB
from dsv4_mlx.sizing.residency import expected_seconds, residency_warning

# A token of V4-Pro reads 40 GB; two M3 Ultra (819 GB/s) took 90 ms for it, and 7 s when their
# memory had been taken away.
PRO = 40_370_000_000


def test_a_token_in_its_usual_time_warns_of_nothing() -> None:
    assert expected_seconds(PRO, 819) == pytest.approx(0.11, abs=0.01)
    assert residency_warning(0.09, PRO, 400 * GIB, 819, macs=2) == ""
    assert residency_warning(0.30, PRO, 400 * GIB, 819, macs=2) == ""


@pytest.mark.parametrize("seconds", [1 / 0.14, 1.0])
@pytest.mark.parametrize("bandwidth", [819, None])
def test_a_token_that_reads_from_the_disk_is_told_with_the_line_for_both_macs(
    seconds: float, bandwidth: float | None
) -> None:
    if bandwidth is None and seconds == 1.0:
        seconds = 2.1  # an unknown Mac is given the time of a slow one
    said = residency_warning(seconds, PRO, 400 * GIB, bandwidth, macs=2)
    assert said.startswith(f"one token took {seconds:.2f} s, expected about ")
    assert "`sudo sysctl iogpu.wired_limit_mb=411648` on both Macs" in said


def test_one_mac_is_told_alone() -> None:
    assert "on this Mac" in residency_warning(9, PRO, 400 * GIB, 819)


def test_an_unknown_memory_is_only_blamed_for_what_no_memory_takes() -> None:
    assert residency_warning(PRO / 30e9, PRO, GIB) == ""
    assert residency_warning(PRO / 10e9, PRO, GIB) != ""
