"""Sizes of streamed models against their definition, and expected speeds against those published
with the model that they come from."""

from dataclasses import replace

import pytest

from dsv4_mlx.release.config import FLASH
from dsv4_mlx.sizing.machines import WORKING_BYTES, longest_context, memory_needed
from dsv4_mlx.sizing.passes import stream_bytes
from dsv4_mlx.sizing.streamed import (
    STREAMING_MACS,
    StreamedWeights,
    bandwidth_of,
    expected,
    hit_rate,
)

EXPERT = 8_388_608 + 524_288 + 4_194_304 + 262_144
NATIVE = StreamedWeights(FLASH, 8_850_000_000, 7_790_000_000, 43 * EXPERT, 43 * EXPERT)


def test_slots_are_the_pools_bytes_over_one_expert_of_every_layer() -> None:
    assert NATIVE.expert_bytes == EXPERT == 13_369_344
    assert NATIVE.slots(31 * 43 * EXPERT) == 31
    assert NATIVE.slots(31 * 43 * EXPERT - 1) == 30
    assert NATIVE.slots(1 << 50) == 256


def test_a_prompt_has_two_layers_in_memory_beside_the_pools() -> None:
    assert NATIVE.staging_bytes == 2 * 256 * EXPERT
    needed = NATIVE.needed(10**9, 8_192)
    cache = memory_needed(FLASH, 0, 8_192) - WORKING_BYTES
    streams = 8_192 * 4 * 4_096 * 2
    assert needed == NATIVE.resident + cache + streams + WORKING_BYTES + 2 * 256 * EXPERT + 10**9


def test_a_prompt_has_its_streams_in_memory_up_to_a_pass_of_them() -> None:
    assert stream_bytes(FLASH, 1) == 32 << 10 and stream_bytes(FLASH, 1, 4) == 64 << 10
    assert stream_bytes(FLASH, 32_768) == stream_bytes(FLASH, 1 << 20) == 1 << 30
    for context in (8_192, 1 << 20):
        there = memory_needed(FLASH, 0, context, by_layers=2) - memory_needed(FLASH, 0, context)
        assert there == stream_bytes(FLASH, context)
    limit = memory_needed(FLASH, 0, 16_384, by_layers=2)
    assert longest_context(FLASH, 0, limit, by_layers=2) == 16_384
    assert longest_context(FLASH, 0, limit) > 16_384


def test_what_is_left_for_the_pools_fits_and_a_byte_more_does_not() -> None:
    limit = 27 << 30
    pools = NATIVE.pools_in(limit, 8_192)
    assert NATIVE.needed(pools, 8_192) == limit
    assert NATIVE.pools_in(NATIVE.resident, 8_192) == 0
    assert NATIVE.pools_in(1 << 40, 8_192) == 256 * 43 * EXPERT  # all experts, and no more


# slots of a layer, bandwidth, disk -> hits in percent and tokens/s, published to two digits.
@pytest.mark.parametrize(
    ("slots", "bandwidth", "disk", "hits", "rate"),
    [
        (31, 410, 5.5, (37, 54), (2.1, 2.8)),
        (47, 273, 5.5, (49, 64), (2.4, 3.1)),
        (70, 546, 6, (58, 71), (3.3, 4.5)),
        (70, 307, 10, (58, 71), (4.2, 5.2)),
        (115, 400, 5.5, (70, 81), (3.9, 5.2)),
        (172, 546, 6.5, (84, 90), (7.1, 9.4)),
        (172, 614, 12, (84, 90), (10, 13)),
    ],
)
def test_expected_speeds_are_those_of_the_published_model(
    slots: int,
    bandwidth: float,
    disk: float,
    hits: tuple[int, int],
    rate: tuple[float, float],
) -> None:
    found = expected(NATIVE, slots, bandwidth, disk)
    assert [100 * one for one in found.hits] == pytest.approx(hits, abs=1)
    assert found.tokens_per_s == pytest.approx(rate, rel=0.05)


def test_a_first_answer_reads_every_expert_once() -> None:
    found = expected(NATIVE, 31, 410, 5.5)
    assert found.first_answer_s == pytest.approx(256 * 43 * EXPERT / 5.5e9)
    assert f"{found.first_answer_s:.0f}" == "27"
    assert found.rate_text() == "2.2 to 2.8 tokens/s expected"


def test_a_model_whose_experts_all_fit_reads_nothing_and_waits_for_nothing() -> None:
    found = expected(NATIVE, 256, 614, 12)
    assert found.hits == (1, 1)
    whole = NATIVE.read + 6 * NATIVE.slot_bytes
    assert found.tokens_per_s[0] == pytest.approx(0.45 * 614e9 / whole)


def test_more_slots_faster_disks_and_smaller_experts_are_never_slower() -> None:
    rates = [expected(NATIVE, slots, 410, 5.5).tokens_per_s[0] for slots in range(0, 257)]
    assert rates == sorted(rates)
    assert expected(NATIVE, 31, 410, 6).tokens_per_s > expected(NATIVE, 31, 410, 5.5).tokens_per_s
    small = replace(NATIVE, file_bytes=NATIVE.file_bytes // 2)
    assert expected(small, 31, 410, 5.5).tokens_per_s > expected(NATIVE, 31, 410, 5.5).tokens_per_s


def test_hits_are_shares_of_any_number_of_experts() -> None:
    assert hit_rate(0) == 0 and hit_rate(1) == 1 and hit_rate(27 / 256) == pytest.approx(0.34)


def test_an_unknown_bandwidth_leaves_the_reads() -> None:
    reads = (1 - expected(NATIVE, 31, None, 5.5).hits[0]) * 6 * NATIVE.file_bytes / 5.5e9
    assert expected(NATIVE, 31, None, 5.5).tokens_per_s[0] == pytest.approx(1 / (reads + 0.0086))
    assert bandwidth_of("Apple M4 Max") == 410  # of two, the smaller one
    assert bandwidth_of("Apple M3 Ultra") == 819
    assert bandwidth_of("Apple M1") is None
    assert {one.mac.memory_gib for one in STREAMING_MACS} == {36, 48, 64, 96, 128}
