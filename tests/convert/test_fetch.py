"""Fetching from a hub that is a folder here: what is asked for, checked and refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from convert.app import main
from convert.fetch import fetch
from convert.hub import HubFile, told
from convert.progress import ProgressDisplay
from dsv4_mlx.errors import CheckpointError, ConfigError, UsageError
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint

SMALL = TINY.replace(
    num_hidden_layers=1, compress_ratios=(4, 0), num_hash_layers=0, n_routed_experts=2
)


class FolderHub:
    """Serves a folder and remembers what was asked."""

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, []

    def files(self, repo):
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                sha = hashlib.sha256(path.read_bytes()).hexdigest()
                large = path.suffix == ".safetensors"
                name = path.relative_to(self.folder).as_posix()
                found[name] = HubFile(path.stat().st_size, sha if large else None)
        return "0123456789abcdef", found

    def download(self, repo, revision, files, folder, progress):
        self.asked.append(list(files))
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, folder / name)


@pytest.fixture
def hub(tmp_path) -> FolderHub:
    folder = write_tiny_checkpoint(tmp_path / "hub", SMALL, shards=2)
    (folder / "assets").mkdir()
    (folder / "assets" / "film.mp4").write_bytes(b"x" * 100)
    (folder / "model.gguf").touch()
    (folder / "encoding").mkdir()
    (folder / "encoding" / "encoding_dsv4.py").write_text("# how it is asked\n")
    (folder / "original").mkdir()
    (folder / "original" / "model.safetensors").write_bytes(b"x" * 100)
    return FolderHub(folder)


def test_only_what_is_needed_is_fetched_and_it_converts(hub, tmp_path):
    fetch("somebody/V4", tmp_path / "got", ProgressDisplay(), hub)
    assert not (tmp_path / "got" / "assets").exists()
    assert not (tmp_path / "got" / "model.gguf").exists()
    assert not (tmp_path / "got" / "original").exists()
    assert (tmp_path / "got" / "encoding" / "encoding_dsv4.py").is_file()
    assert hub.asked[0] == ["config.json"]
    assert main([str(tmp_path / "got"), str(tmp_path / "out")]) == 0


def test_another_model_is_refused_before_its_weights(hub, tmp_path):
    config = json.loads((hub.folder / "config.json").read_text())
    (hub.folder / "config.json").write_text(json.dumps(config | {"model_type": "deepseek_v41"}))
    with pytest.raises(ConfigError, match=r"V4\.1"):
        fetch("somebody/V41", tmp_path / "got", ProgressDisplay(), hub)
    assert hub.asked == [["config.json"]]


@pytest.mark.parametrize("damage", ["flipped", "short"])
def test_a_wrong_file_is_named(hub, tmp_path, damage, monkeypatch):
    download = hub.download

    def damaging(repo, revision, files, folder, progress):
        download(repo, revision, files, folder, progress)
        for path in folder.glob("model-00002*"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content if damage == "flipped" else content[:-1])

    monkeypatch.setattr(hub, "download", damaging)
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is not what"):
        fetch("somebody/V4", tmp_path / "got", ProgressDisplay(), hub)


def test_a_repository_without_config_is_refused(hub, tmp_path):
    (hub.folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        fetch("somebody/V4", tmp_path / "got", ProgressDisplay(), hub)


def test_what_the_client_refuses_is_a_sentence(tmp_path, capsys):
    assert main(["fetch", "not a name/at all/ever", str(tmp_path / "got")]) == 2
    assert "cannot be fetched (" in capsys.readouterr().err


def test_an_error_without_text_is_named():
    def ask():
        raise TimeoutError

    with pytest.raises(UsageError, match=r"somebody/V4 cannot be fetched \(TimeoutError\)"):
        told("somebody/V4", ask)
