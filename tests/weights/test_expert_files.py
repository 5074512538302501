"""Experts read one by one are those of a loaded model, and what is damaged names its file."""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_writing import plan_array
from dsv4_mlx.testing.checkpoints import edit_checkpoint, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.expert_files import without_experts
from dsv4_mlx.weights.expert_store import ExpertStore, layer_parts
from dsv4_mlx.weights.open_files import OpenFiles
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.reading import read_weights
from tests.model.streamed import RECIPES, SMALL, written

E = SMALL.n_routed_experts


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experts")


def store_of(folder: Path, slots: int = E, **options: Any) -> ExpertStore:
    _, experts = without_experts(plan_parameters(open_checkpoint(folder)))
    return ExpertStore(layer_parts(experts), slots, **options)


@pytest.mark.parametrize("recipe", RECIPES)
def test_experts_are_those_of_a_loaded_model(parent: Path, recipe: str) -> None:
    checkpoint = open_checkpoint(written(parent, recipe))
    loaded = dict(read_weights(checkpoint, plan_parameters(checkpoint), mx.float32))
    store = store_of(checkpoint.folder)
    assert sorted(store.pools) == list(range(SMALL.num_hidden_layers))
    for number, pool in store.pools.items():
        every = [*range(3, E), *range(3)]
        pool.request(every)
        pool.wait(every)
        places = mx.array(pool.places(np.arange(E)).astype(np.uint32))
        for matrix, fields in pool.arrays.matrices.items():
            for field, array in fields.items():
                expected = loaded.pop(f"model.layers.{number}.mlp.experts.{matrix}.{field}")
                assert array.dtype == expected.dtype
                np.testing.assert_array_equal(np.array(array[places]), np.array(expected))
    left = [name for name in loaded if ".experts." in name and not name.startswith("mtp.")]
    assert left == []
    store.close()


def test_experts_that_loading_unpacks_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path, SMALL, base=True, tokenizer=False)
    with pytest.raises(CheckpointError, match=r"experts\.\w+ is stored as F8_E4M3 that loading un"):
        store_of(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "here", SMALL, shards=2, tokenizer=False)


def ask(store: ExpertStore, layer: int = 1, expert: int = 5) -> None:
    store.pools[layer].request([expert])
    store.pools[layer].wait([expert])


def shard_of(folder: Path, expert: int = 5) -> Path:
    return open_checkpoint(folder).tensors[f"layers.1.ffn.experts.{expert}.w2.weight"].path


def test_scales_that_a_loader_refuses_are_refused(folder: Path) -> None:
    name = "layers.1.ffn.experts.5.w3.scale"
    entry = open_checkpoint(folder).tensors[name]
    scales = entry.read()
    scales[3, 1] = 255
    edit_checkpoint(folder, {name: plan_array(name, entry.dtype, scales)})
    store = store_of(folder, 2)
    ask(store, expert=4)
    with pytest.raises(CheckpointError, match=rf"^{name} in .* the scale byte 255 \(NaN\)"):
        ask(store)


def test_affine_scales_that_are_no_numbers_are_refused(parent: Path, tmp_path: Path) -> None:
    source = written(parent, "q2")
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    name = "model.layers.1.mlp.experts.down_proj.biases"
    entry = open_checkpoint(folder).tensors[name]
    with entry.path.open("r+b") as file:
        file.seek(entry.start + 5 * entry.nbytes // E)
        file.write(np.uint16(0x7F80).tobytes())
    store = store_of(folder, 2)
    ask(store, expert=4)
    with pytest.raises(CheckpointError, match=rf"^{name} in .* a number that is not finite"):
        ask(store)


def test_a_shard_that_is_cut_short_is_named(folder: Path) -> None:
    path, store = shard_of(folder), store_of(folder, 2)
    os.truncate(path, 1000)
    with pytest.raises(CheckpointError, match=rf"^{path.name} ends at byte .*; download it again"):
        ask(store)
    with pytest.raises(CheckpointError):
        store_of(folder, 2)


def test_a_shard_that_is_written_to_is_named(folder: Path) -> None:
    path, store = shard_of(folder), store_of(folder, 2)
    os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match=rf"^{path.name} was written to since it was opened"):
        ask(store)


def test_a_folder_that_another_replaces_is_read_on(folder: Path, tmp_path: Path) -> None:
    store, old = store_of(folder, 2), shard_of(folder).read_bytes()
    for path in folder.glob("*.safetensors"):
        other = tmp_path / path.name
        other.write_bytes(bytes(path.stat().st_size))
        other.replace(path)
    ask(store)
    pool = store.pools[1]
    found = bytes(np.array(pool.arrays.matrices["down_proj"]["weight"][pool.held[5]]))
    assert found in old


def replaced_folder(folder: Path) -> None:
    """Another conversion, of fewer files, lies where the folder was."""
    folder.rename(folder.with_name("before"))
    folder.mkdir()
    (folder / "other.safetensors").write_bytes(b"x")


def replaced_file(folder: Path) -> None:
    """One shard of another conversion, as downloads put it there."""
    path, other = shard_of(folder), folder / "partial"
    other.write_bytes(bytes(path.stat().st_size))
    os.utime(other, ns=(1, 1))
    other.replace(path)


def removed_file(folder: Path) -> None:
    shard_of(folder).unlink()


@pytest.mark.parametrize("change", [replaced_folder, replaced_file, removed_file])
def test_a_folder_that_was_changed_is_told_where_somebody_asks(
    folder: Path, change: Callable[[Path], None]
) -> None:
    store = store_of(folder, 2)
    store.require_in_place()
    change(folder)
    sentence = rf"^{re.escape(str(folder))}/.*safetensors is not the file that was opened"
    with pytest.raises(CheckpointError, match=sentence):
        store.require_in_place()
    ask(store)


def test_a_server_that_lost_its_files_is_told_by_reading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(folder, 2)

    def stale(file: int) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as while_away:
        while_away.setattr(os, "fstat", stale)
        store.require_in_place()


def test_a_disk_that_is_away_for_a_while_or_mounted_anew_is_the_same(
    folder: Path, tmp_path: Path
) -> None:
    store, copies = store_of(folder, 2), tmp_path / "mounted"
    away = folder.rename(folder.with_name("away"))
    store.require_in_place()  # reading says it
    shutil.copytree(away, copies)  # with the times of its files, and other numbers
    copies.rename(folder)
    store.require_in_place()


class GoneDisk:
    """Descriptors that were open answer with an error; new ones read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._read, self._duplicate = os.preadv, os.dup2
        self.gone: set[int] = set()
        monkeypatch.setattr(os, "preadv", self.preadv)
        monkeypatch.setattr(os, "dup2", self.dup2)

    def preadv(self, file: int, buffers: Sequence[memoryview], start: int) -> int:
        if file in self.gone:
            raise OSError(errno.ENXIO, "Device not configured")
        return self._read(file, buffers, start)

    def dup2(self, one: int, other: int, inheritable: bool = True) -> int:
        self.gone.discard(other)
        return self._duplicate(one, other, inheritable)


def test_a_disk_that_went_away_and_came_back_is_read_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, store = GoneDisk(monkeypatch), store_of(folder, 2)
    disk.gone = {*store.reader._files._files.values()}
    away = folder.rename(folder.with_name("away"))
    with pytest.raises(CheckpointError, match=r"could not be read \(Device not configured\)"):
        ask(store)
    assert store.pools[1].held == {}
    away.rename(folder)
    ask(store)
    assert list(store.pools[1].held) == [5]


def test_another_file_in_the_place_of_one_that_went_away_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, store, path = GoneDisk(monkeypatch), store_of(folder, 2), shard_of(folder)
    disk.gone = {*store.reader._files._files.values()}
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content + b"x")
    with pytest.raises(CheckpointError, match=rf"^{path.name} could not be read"):
        ask(store)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """What macOS would be told of descriptors, and Linux is."""
    found: list[tuple[Any, ...]] = []
    monkeypatch.setattr(fcntl, "F_NOCACHE", 48, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda file, *call: found.append((file, *call)))
    monkeypatch.setattr(os, "POSIX_FADV_RANDOM", "random", raising=False)
    monkeypatch.setattr(os, "POSIX_FADV_DONTNEED", "let go", raising=False)
    advise = lambda *call: found.append(call)  # noqa: E731
    monkeypatch.setattr(os, "posix_fadvise", advise, raising=False)
    yield found


def test_files_of_experts_are_kept_out_of_the_file_cache(tmp_path: Path, calls: list) -> None:
    path = tmp_path / "shard"
    path.write_bytes(bytes(20_000))
    files = OpenFiles([path, path], stays=False)
    (file,) = files._files.values()
    assert calls == [(file, 48, 1), (file, 0, 0, "random"), (file, 0, 0, "let go")]
    calls.clear()
    files.fill(path, 5_000, [memoryview(bytearray(6_000))])
    assert calls == [(file, 4_096, 8_192, "let go")]  # whole pages
    calls.clear()
    OpenFiles([path]).fill(path, 0, [memoryview(bytearray(10))])
    assert calls == []


def test_every_file_of_a_store_is_opened_so(folder: Path, calls: list) -> None:
    store = store_of(folder, 2)
    files = set(store.reader._files._files.values())
    assert {call[0] for call in calls if call[1:] == (48, 1)} == files and len(files) == 2
