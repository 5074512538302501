"""Items read from files by number are the files' bytes, and what is damaged says so."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.weights import open_files
from dsv4_mlx.weights.streaming import ItemStore, Ranges
from tests.weights.reads import reads_of

ROWS, NBYTES, HEAD = 500, 24, 37


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A file of some head and 500 rows, and the rows."""
    rows = np.random.default_rng(0).integers(0, 256, (ROWS, NBYTES), np.uint8)
    path = tmp_path / "table"
    path.write_bytes(bytes(HEAD) + rows.tobytes())
    return path, rows


def ranges(path: Path) -> Ranges:
    return Ranges(path, range(HEAD, HEAD + ROWS * NBYTES, NBYTES), NBYTES)


@pytest.mark.parametrize(
    "numbers",
    [[], [3], [499, 0], [7, 7, 7], list(range(500)), [[[1, 2], [2, 499]], [[5, 4], [3, 2]]]],
    ids=["none", "one", "ends", "repeated", "all", "shaped"],
)
def test_rows_are_the_files(table: tuple[Path, np.ndarray], numbers: list) -> None:
    path, rows = table
    store = ItemStore([ranges(path)], threads=2)
    wanted = np.array(numbers, np.int64)
    ticket = store.request(wanted)
    (found,) = ticket.result()
    assert ticket.done() and found.shape == (*wanted.shape, NBYTES)
    np.testing.assert_array_equal(found, rows[wanted])
    store.close()


def test_items_of_several_parts_fill_the_buffers_they_are_given(tmp_path: Path) -> None:
    """Experts: parts of unequal sizes anywhere in two files, side by side in one buffer."""
    rng = np.random.default_rng(1)
    content = {name: rng.integers(0, 256, 4000, np.uint8) for name in ("a", "b")}
    for name, values in content.items():
        (tmp_path / name).write_bytes(values.tobytes())
    first, second = (100, 3000, 0), (7, 1000, 2000)
    parts = [Ranges(tmp_path / "a", first, 60), Ranges(tmp_path / "b", second, 20)]
    store = ItemStore(parts)
    numbers = [2, 0, 2]
    beside = np.zeros((3, 80), np.uint8)
    store.request(numbers, into=[beside[:, :60], beside[:, 60:]]).result()
    for row, number in zip(beside, numbers, strict=True):
        one, two = first[number], second[number]
        expected = [content["a"][one : one + 60], content["b"][two : two + 20]]
        np.testing.assert_array_equal(row, np.concatenate(expected))
    assert len(store) == 3


def test_a_read_that_stops_early_goes_on(
    table: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rows = table
    whole = open_files.os.preadv

    def reluctant(file: int, buffers: list, start: int) -> int:
        return whole(file, [memoryview(buffers[0])[:5]], start)

    monkeypatch.setattr(open_files.os, "preadv", reluctant)
    (found,) = ItemStore([ranges(path)]).request([4, 5, 6, 400]).result()
    np.testing.assert_array_equal(found, rows[[4, 5, 6, 400]])


def test_neighbours_are_read_with_one_call(
    table: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = reads_of(monkeypatch, table[0])
    ItemStore([ranges(table[0])]).request([9, 2, 3, 2, 4]).result()
    three, one = (HEAD + 2 * NBYTES, 3 * NBYTES, 3), (HEAD + 9 * NBYTES, NBYTES, 1)
    assert sorted(reads) == [three, one]


def test_a_file_that_is_missing_or_short_is_named(table: tuple[Path, np.ndarray]) -> None:
    path, _ = table
    with pytest.raises(CheckpointError, match="other cannot be opened"):
        ItemStore([ranges(path.with_name("other"))])
    content = path.read_bytes()
    store = ItemStore([ranges(path)])
    path.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="has 12036 bytes, expected at least 12037"):
        ItemStore([ranges(path)])
    with pytest.raises(CheckpointError, match="table ends at byte 12036"):
        store.request([499]).result()
    with pytest.raises(CheckpointError, match="table was written to since it was opened"):
        store.request([498]).result()  # there, but of another file perhaps


def test_a_disk_that_fails_is_a_sentence(
    table: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    store = ItemStore([ranges(table[0])])
    monkeypatch.setattr(open_files.os, "preadv", fail)
    sentence = r"^table could not be read \(Input/output error\); check its disk\.$"
    with pytest.raises(CheckpointError, match=sentence):
        store.request([3]).result()


def test_a_file_that_is_written_to_is_refused(table: tuple[Path, np.ndarray]) -> None:
    path, _ = table
    store = ItemStore([ranges(path)])
    with path.open("r+b") as file:
        file.seek(HEAD + 3 * NBYTES)
        file.write(bytes(NBYTES))
    os.utime(path, ns=(1, 1))  # clocks of file systems may be coarse
    sentence = r"^table was written to since it was opened; load the model again\.$"
    with pytest.raises(CheckpointError, match=sentence):
        store.request([4]).result()


def test_a_file_that_another_replaces_is_read_on(
    table: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, rows = table
    store = ItemStore([ranges(path)])
    other = tmp_path / "other"
    other.write_bytes(bytes(path.stat().st_size))
    other.replace(path)
    (found,) = store.request([4, 499]).result()
    np.testing.assert_array_equal(found, rows[[4, 499]])


def test_what_no_item_has_is_refused(table: tuple[Path, np.ndarray]) -> None:
    store = ItemStore([ranges(table[0])])
    for numbers in ([500], [-1, 3]):
        with pytest.raises(UsageError, match="expected items below 500"):
            store.request(numbers)
    with pytest.raises(UsageError, match=r"expected buffers of bytes \[\(2, 24\)\]"):
        store.request([1, 2], into=[np.zeros((1, NBYTES), np.uint8)])
    with pytest.raises(UsageError, match="parts of 500 items"):
        ItemStore([ranges(table[0]), Ranges(table[0], (0,), 4)])
