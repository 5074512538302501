"""The status line at every width."""

from dataclasses import replace

from cli.show.screen.status import byte_count, meter_bar, status_line
from cli.show.surface import Status

FULL = Status(
    model="V4-Flash",
    mode="high",
    backend="metal",
    used_tokens=12_345,
    context_tokens=131_072,
    window_bytes=17_300_000,
    compressed_bytes=3_430_000_000,
    index_bytes=950_000,
    tokens_per_s=23.44,
    first_token_s=0.417,
    busy="answering",
)


def shown(status: Status, width: int, **options: bool) -> str:
    return "".join(text for _, text in status_line(status, width, **options))


def test_a_wide_line_tells_everything() -> None:
    assert shown(FULL, 200) == (
        "answering · think high · V4-Flash · ▕▊       ▏ 12,345/128K "
        "(window 17 MB, compressed 3.43 GB, index 950 KB) · 23.4 tok/s · first 0.42 s · metal"
    )


def test_tokens_of_a_pass_stand_beside_the_speed() -> None:
    line = shown(replace(FULL, tokens_per_pass=2.345), 200)
    assert " · 23.4 tok/s · 2.3 tok/pass · first 0.42 s" in line


def test_what_was_found_of_experts_stands_beside_the_speed() -> None:
    line = shown(replace(FULL, expert_hits=0.634, waited_s=12.34), 200)
    assert " · 23.4 tok/s · experts 63% hit, waited 12.3 s · first 0.42 s" in line


def test_what_matters_least_goes_first() -> None:
    assert [shown(FULL, width) for width in (100, 90, 72, 60, 45, 30, 22)] == [
        "answering · think high · V4-Flash · ▕▊       ▏ 12,345/128K · 23.4 tok/s · "
        "first 0.42 s · metal",
        "answering · think high · V4-Flash · ▕▊       ▏ 12,345/128K · 23.4 tok/s · first 0.42 s",
        "answering · think high · V4-Flash · ▕▊       ▏ 12,345/128K · 23.4 tok/s",
        "answering · think high · V4-Flash · 12,345/128K · 23.4 tok/s",
        "answering · think high · 12,345/128K",
        "answering · think high",
        "answering · think high",
    ]


def test_no_width_is_exceeded() -> None:
    for width in range(200):
        assert len(shown(FULL, width)) <= width
    assert shown(FULL, 5) == "answ…"


def test_what_is_unknown_is_left_out() -> None:
    assert shown(Status("nano", "none"), 80) == "think none · nano"
    assert shown(Status("nano", "none", used_tokens=0), 80) == "think none · nano · 0"


def test_names_from_files_cannot_move_the_cursor() -> None:
    assert shown(Status("a\x1b[2J\nb", "none"), 80) == "think none · a␛[2J b"


def test_the_bar_shows_the_least_use_and_never_overflows() -> None:
    assert [meter_bar(x) for x in (0, 1e-9, 0.5, 1, 7)] == [
        "▕        ▏", "▕▏       ▏", "▕████    ▏", "▕████████▏", "▕████████▏",
    ]  # fmt: skip
    assert [meter_bar(x, blocks=False) for x in (0, 1e-9, 0.5, 1)] == [
        "[--------]", "[#-------]", "[####----]", "[########]",
    ]  # fmt: skip


def test_bytes_for_people() -> None:
    sizes = (0, 999, 1000, 9_950, 17_300_000, 3_430_000_000, 999_950_000_000)
    assert [byte_count(size) for size in sizes] == [
        "0 B", "999 B", "1.0 KB", "9.9 KB", "17 MB", "3.43 GB", "1.0 TB",
    ]  # fmt: skip
