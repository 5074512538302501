"""Rows that were read are kept within bounds, the ones used last, and are the file's bytes."""

from pathlib import Path

import numpy as np
import pytest

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.weights import open_files
from dsv4_mlx.weights.forms import RowFp8Form
from dsv4_mlx.weights.kept_rows import WAYS, KeptRows
from dsv4_mlx.weights.parameters import Parameter, Part
from dsv4_mlx.weights.table_rows import RowCounts, TableFile
from tests.weights.reads import reads_of

ROWS, COLUMNS = 400, 64
CODES = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS), np.uint8)
SCALES = np.random.default_rng(1).integers(100, 140, (ROWS, COLUMNS // 32), np.uint8)
ROW_BYTES = COLUMNS + COLUMNS // 32
PLACE_BYTES = ROW_BYTES + 16


def part_of(numbers: np.ndarray) -> list[np.ndarray]:
    return [CODES[numbers], SCALES[numbers]]


def empty(count: int) -> list[np.ndarray]:
    return [np.zeros((count, COLUMNS), np.uint8), np.zeros((count, COLUMNS // 32), np.uint8)]


def found(kept: KeptRows, *numbers: int) -> list[int]:
    """Which of them are kept; their bytes are checked."""
    wanted, into = np.array(numbers), empty(len(numbers))
    there = kept.find(wanted, into)
    for buffer, expected in zip(into, part_of(wanted), strict=True):
        np.testing.assert_array_equal(buffer[there], expected[there])
        assert not buffer[~there].any()
    return wanted[there].tolist()


def one_set() -> KeptRows:
    """Room for eight rows, which all share their places."""
    return KeptRows([COLUMNS, COLUMNS // 32], WAYS * PLACE_BYTES)


@pytest.mark.parametrize("limit", [0, 1, 7 * PLACE_BYTES, 8 * PLACE_BYTES, 5000, 50000])
def test_kept_rows_take_no_more_than_their_limit(limit: int) -> None:
    kept = KeptRows([COLUMNS, COLUMNS // 32], limit)
    assert kept.nbytes <= limit < kept.nbytes + WAYS * PLACE_BYTES
    kept.keep(np.arange(ROWS), part_of(np.arange(ROWS)))
    there = found(kept, *range(ROWS))
    assert len(there) == min(ROWS, kept.capacity)


def test_the_row_used_longest_ago_goes_first() -> None:
    kept = one_set()
    for number in range(8):
        kept.keep(np.array([number]), part_of(np.array([number])))
    assert found(kept, 0, 1) == [0, 1]  # used again
    kept.keep(np.array([50, 60]), part_of(np.array([50, 60])))
    assert found(kept, *range(8), 50, 60) == [0, 1, 4, 5, 6, 7, 50, 60]


def test_a_row_that_is_kept_takes_no_second_place() -> None:
    kept = one_set()
    for _ in range(3):
        kept.keep(np.arange(5), part_of(np.arange(5)))
    kept.keep(np.array([9, 10, 11]), part_of(np.array([9, 10, 11])))
    assert found(kept, *range(12)) == [0, 1, 2, 3, 4, 9, 10, 11]


@pytest.mark.parametrize("sets", [1, 3])
def test_it_forgets_as_a_list_of_last_uses_does(sets: int) -> None:
    """One row at a time: beside a plain list for each remainder, the one used last at its end."""
    kept = KeptRows([COLUMNS, COLUMNS // 32], sets * WAYS * PLACE_BYTES)
    lists: list[list[int]] = [[] for _ in range(sets)]
    for number in np.random.default_rng(2).integers(0, 15 * sets, 400).tolist():
        mine = lists[number % sets]
        there = number in mine
        assert found(kept, number) == [number] * there
        if there:
            mine.remove(number)
        else:
            kept.keep(np.array([number]), part_of(np.array([number])))
        lists[number % sets] = [*mine, number][-WAYS:]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "table"
    file.write_bytes(CODES.tobytes() + SCALES.tobytes())
    return file


def table(path: Path, kept_bytes: int = 1 << 16) -> TableFile:
    weight = TensorEntry("embed.weight", "F8_E4M3", CODES.shape, path, 0, CODES.nbytes)
    after = (path, CODES.nbytes, SCALES.nbytes)
    scales = TensorEntry("embed.scale", "F8_E8M0", SCALES.shape, *after)
    part = Part(CODES.shape, weight, scales)
    return TableFile(Parameter("table", "weight", CODES.shape, RowFp8Form(), (part,)), kept_bytes)


def require_rows(file: TableFile, rows: np.ndarray) -> None:
    codes, scales = file.request(rows).result()
    np.testing.assert_array_equal(codes, CODES[rows])
    np.testing.assert_array_equal(scales, SCALES[rows])


def test_counts_say_where_rows_came_from(path: Path) -> None:
    file = table(path)
    require_rows(file, np.array([[5, 3], [5, 3]]))
    assert file.counts == RowCounts(missed=2, nbytes=2 * ROW_BYTES)
    file.ask_ahead(np.array([3, 7, 8]))  # of which 3 is kept
    assert file.counts == RowCounts(missed=2, nbytes=4 * ROW_BYTES)
    require_rows(file, np.array([3, 8, 9]))
    assert file.counts == RowCounts(kept=1, ahead=1, missed=3, nbytes=5 * ROW_BYTES)
    require_rows(file, np.array([7, 8, 9]))  # what came along is kept with it
    assert file.counts == RowCounts(kept=4, ahead=1, missed=3, nbytes=5 * ROW_BYTES)


@pytest.mark.parametrize("kept_bytes", [0, WAYS * PLACE_BYTES, 1 << 16])
def test_rows_are_the_files_whatever_was_kept_and_asked(path: Path, kept_bytes: int) -> None:
    file, rng = table(path, kept_bytes), np.random.default_rng(3)
    for _ in range(60):
        wanted = rng.integers(0, 90, rng.integers(0, 30))
        if rng.random() < 0.6:
            file.ask_ahead(rng.permutation(np.append(wanted[:15], rng.integers(0, ROWS, 4))))
        require_rows(file, wanted)
    assert file.kept.nbytes <= kept_bytes
    assert file.counts.ahead and file.counts.missed and bool(file.counts.kept) == bool(kept_bytes)


def test_what_was_asked_ahead_is_not_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, reads = table(path), reads_of(monkeypatch, path)
    first, second = np.arange(0, 50), np.arange(40, 90)
    for rows in (first, second, first):
        file.ask_ahead(rows)
    require_rows(file, first)
    require_rows(file, second)
    read = [byte for start, count, _ in reads for byte in range(start, start + count)]
    assert len(read) == len(set(read)) == 90 * ROW_BYTES == file.counts.nbytes


def test_rows_asked_ahead_in_vain_are_held_for_two_requests(path: Path) -> None:
    file = table(path)
    for start in (0, 100, 200):
        file.ask_ahead(np.arange(start, start + 10))
    require_rows(file, np.array([5, 105, 205]))
    assert (file.counts.ahead, file.counts.missed) == (2, 1)


def fail(*_: object) -> int:
    raise OSError(5, "Input/output error")


def test_a_failure_ahead_is_told_when_the_rows_are_wanted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = table(path)
    with monkeypatch.context() as broken:
        broken.setattr(open_files.os, "preadv", fail)
        file.ask_ahead(np.arange(9))
        ticket = file.request(np.array([4]))
        sentence = r"^table could not be read \(Input/output error\); check its disk\.$"
        with pytest.raises(CheckpointError, match=sentence):
            ticket.result()
    require_rows(file, np.array([4]))  # read anew


def test_scales_that_no_table_has_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(CODES.tobytes() + np.full_like(SCALES, 255).tobytes())
    file = table(path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"embed\.scale holds scale bytes 255 to 255"):
            file.request(np.array([4])).result()
