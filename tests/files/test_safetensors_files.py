"""Files are written so that others read them, and read so that no damage passes or crashes."""

import json
import struct
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.files.safetensors_writing import TensorPlan, plan_array, write_file

ARRAYS = {
    "codes": ("F8_E4M3", np.arange(6, dtype=np.uint8).reshape(2, 3)),
    "bytes": ("U8", np.arange(5, dtype=np.uint8)),
    "words": ("U32", np.arange(7, dtype=np.uint32)),
    "table": ("I64", np.arange(4, dtype=np.int64).reshape(2, 2)),
    "reals": ("F32", np.linspace(0, 1, 3, dtype=np.float32)),
    "empty": ("F32", np.zeros((0, 4), np.float32)),
    "one": ("F32", np.array([2.5], np.float32)),
}


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    plans = [plan_array(name, dtype, array) for name, (dtype, array) in ARRAYS.items()]
    write_file(path, plans, {"format": "mlx"})
    return path


def test_what_was_written_is_read(file):
    entries = read_header(file)
    assert entries.keys() == ARRAYS.keys()
    for name, (dtype, array) in ARRAYS.items():
        assert entries[name].dtype == dtype
        np.testing.assert_array_equal(entries[name].read(), array)
        assert b"".join(entries[name].chunks()) == array.tobytes()


def test_mlx_and_the_safetensors_library_read_our_files(file):
    from safetensors import safe_open

    arrays = mx.load(str(file))
    for name, (_, array) in ARRAYS.items():
        np.testing.assert_array_equal(np.array(arrays[name]), array)
    with safe_open(file, "numpy") as library:
        np.testing.assert_array_equal(library.get_tensor("words"), ARRAYS["words"][1])


def test_every_tensor_starts_aligned_to_its_elements(file):
    for entry in read_header(file).values():
        assert entry.start % entry.read().itemsize == 0


def test_a_failed_write_leaves_nothing_under_the_final_name(tmp_path):
    def chunks():
        yield b"abc"
        raise OSError("the disk is gone")

    path = tmp_path / "model.safetensors"
    with pytest.raises(OSError, match="the disk is gone"):
        write_file(path, [TensorPlan("x", "U8", (6,), chunks)])
    assert not path.exists()


def test_a_plan_that_yields_too_little_is_noticed(tmp_path):
    with pytest.raises(ValueError, match="3 bytes were produced, 6 planned"):
        write_file(tmp_path / "a", [TensorPlan("x", "U8", (6,), lambda: [b"abc"])])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_bytes_end_in_a_sentence_or_are_harmless(data, tmp_path_factory):
    """Whatever happens to the header, nothing but CheckpointError comes out."""
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    plans = [plan_array(name, dtype, array) for name, (dtype, array) in ARRAYS.items()]
    write_file(path, plans)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(len(content) // 2, len(content))) :]
    path.write_bytes(content)
    try:
        entries = read_header(path)
    except CheckpointError as error:
        assert str(error).startswith("model.safetensors")
    else:
        assert all(entry.start + entry.nbytes <= len(content) for entry in entries.values())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(
    entry=st.fixed_dictionaries(
        {},
        optional={
            "dtype": JSON_VALUES | st.just("F32"),
            "shape": JSON_VALUES | st.lists(st.integers(-2, 4), max_size=3),
            "data_offsets": JSON_VALUES | st.lists(st.integers(-8, 80), min_size=2, max_size=2),
        },
    )
    | JSON_VALUES
)
def test_any_header_entry_ends_in_a_sentence_or_is_right(entry, tmp_path_factory):
    path = tmp_path_factory.mktemp("header") / "model.safetensors"
    header = json.dumps({"x": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    try:
        found = read_header(path)["x"]
    except CheckpointError as error:
        assert "x" in str(error)
    else:
        assert found.read().shape == found.shape
