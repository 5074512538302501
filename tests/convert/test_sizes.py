"""Sizes as people write them."""

import pytest

from convert.fit import MEMORIES, memory_of
from dsv4_mlx.files.sizes import bytes_of


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20 GB", 20 * 10**9), ("20GB", 20 * 10**9), (" 20  gb ", 20 * 10**9),
        ("20.0Gb", 20 * 10**9), ("2e1 GB", 20 * 10**9), ("20 GiB", 20 << 30), ("20gib", 20 << 30),
        ("0.5 MiB", 1 << 19), ("512mib", 512 << 20), ("1 TB", 10**12), ("7kb", 7_000), ("0 GB", 0),
    ],
)  # fmt: skip
def test_a_size_is_read_in_every_spelling(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    "text", ["20", "GB", "-1 GB", "nan GB", "inf GB", "1 2 GB", "1e999 GB", "..GB", "", "5 cows",
             "9e9 TB", "٢ GB"],
)  # fmt: skip
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        bytes_of(text)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_macs_memory_is_one_in_every_spelling(memory: str) -> None:
    number = memory.removesuffix("GB")
    spellings = [memory, f"{number} GB", f"{number}gb", f" {number} GiB", f"{number}gib"]
    assert [memory_of(text) for text in spellings] == [memory] * 5


def test_another_memory_stays_what_was_written() -> None:
    assert [memory_of(text) for text in ("65 GB", "many")] == ["65 GB", "many"]
