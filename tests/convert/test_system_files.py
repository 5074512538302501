"""What systems leave in folders is nobody's: no obstacle to a conversion, and never a shard."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.app import main
from convert.fetch import fetch
from convert.progress import ProgressDisplay
from dsv4_mlx.files.system_files import is_system_file
from dsv4_mlx.release.identity import FETCHED_FILE
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import INDEX_FILE, open_checkpoint
from tests.convert.small import SMALL, contents
from tests.convert.test_fetch import FolderHub
from tests.examples import examples

# What macOS writes beside a file whose attributes the disk cannot keep.
APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100)
FOLDERS = ["lost+found", ".Spotlight-V100", ".Trashes", "$RECYCLE.BIN", ".Trash-1000", "@eaDir"]
FILES = [
    ".DS_Store", "._out", "._.DS_Store", "._model-00001-of-00002.safetensors", "._config.json",
    "Thumbs.db", "desktop.ini", ".localized", ".nfs000000000012a3f400000001", ".directory",
]  # fmt: skip
SOMEBODYS = [
    "thesis.tex", ".hidden", "model.safetensors", "config.json", "_.DS_Store", "DS_Store", "a._b",
    ".nfs-notes", "lost+found.txt",
]  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("release"), SMALL, shards=2)


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("converted") / "out"
    assert main([str(release), str(folder)]) == 0
    return contents(folder)


def leave(folder: Path, names: set[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in FOLDERS:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(APPLE_DOUBLE)


@examples(8, slow=20, suppress_health_check=list(HealthCheck))
@given(left=st.sets(st.sampled_from(FOLDERS + FILES), min_size=1), resume=st.booleans())
def test_a_folder_with_nothing_but_such_files_is_empty(
    left, resume, release, converted, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("destination")
    leave(folder, left)
    assert main([str(release), str(folder), *["--resume"] * resume]) == 0
    assert contents(folder).items() >= converted.items()
    assert all((folder / name).exists() for name in left)
    assert main(["verify", str(folder), "--against", str(release)]) == 0


@pytest.mark.parametrize("resume", [False, True], ids=["anew", "resume"])
@pytest.mark.parametrize("name", SOMEBODYS)
def test_what_somebody_put_there_stays(name, resume, release, tmp_path, capsys):
    leave(tmp_path / "out", {name, *FILES})
    before = contents(tmp_path / "out")
    assert main([str(release), str(tmp_path / "out"), *["--resume"] * resume]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(indexed=st.booleans(), shard=st.sampled_from(["model-", "", "weights-"]))
def test_a_source_copied_by_a_mac_is_read_as_it_is(indexed, shard, release, tmp_path_factory):
    """Every file has its companion, shards of any name and folders too."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "encoding").mkdir()
    (folder / "encoding" / "encoding_dsv4.py").write_text("# how it is asked\n")
    for path in release.iterdir():
        name = path.name.replace("model-", shard) if path.suffix == ".safetensors" else path.name
        if indexed or name != INDEX_FILE:
            (folder / name).write_bytes(path.read_bytes())
    if indexed:
        index = json.loads((folder / INDEX_FILE).read_text())
        moved = {tensor: file.replace("model-", shard) for tensor, file in
                 index["weight_map"].items()}  # fmt: skip
        (folder / INDEX_FILE).write_text(json.dumps({**index, "weight_map": moved}))
    for path in list(folder.rglob("*")):
        path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
    leave(folder / "encoding", {".DS_Store"})
    assert open_checkpoint(folder).tensors.keys() == open_checkpoint(release).tensors.keys()
    out = tmp_path_factory.mktemp("result") / "out"
    assert main([str(folder), str(out), "--delete-source"]) == 0
    assert not [name for name in contents(out) if is_system_file(Path(name).name)]
    assert (out / "encoding" / "encoding_dsv4.py").is_file()
    assert main(["inspect", str(out)]) == 0 and main(["verify", str(out)]) == 0
    assert not [path for path in folder.glob("*.safetensors") if not is_system_file(path.name)]


def test_other_weights_are_not_taken_for_a_companion(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(keys_of(SMALL)))
    for name in ("._model.gguf", "._model.safetensors"):
        (tmp_path / name).write_bytes(APPLE_DOUBLE)
    assert main(["inspect", str(tmp_path)]) == 1
    assert "no *.safetensors files" in capsys.readouterr().err


def test_companions_are_not_fetched(release, tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "hub", SMALL, shards=2)
    leave(folder, set(FILES))
    leave(folder / "encoding", {"._encoding_dsv4.py", ".DS_Store"})
    fetch("somebody/V4", tmp_path / "got", ProgressDisplay(), FolderHub(folder))
    assert contents(tmp_path / "got").keys() == {*contents(release), FETCHED_FILE}


@pytest.mark.parametrize("name", FOLDERS + FILES)
def test_their_names_are_known_in_any_case(name):
    assert is_system_file(name) and is_system_file(name.upper()) and is_system_file(name.lower())


@pytest.mark.parametrize("name", [*SOMEBODYS, "", ".", "..", "..a", "model-00001.safetensors"])
def test_others_are_somebodys(name):
    assert not is_system_file(name)
