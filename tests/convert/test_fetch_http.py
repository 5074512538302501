"""`fetch` through the hub's own client, over HTTP: what goes wrong on the way is a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convert.fetch import fetch
from convert.hub import HuggingFace
from convert.progress import ProgressDisplay
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from tests.convert.hub import REPO, FakeHub, serving

SMALL = TINY.replace(
    num_hidden_layers=1, compress_ratios=(4, 0), num_hash_layers=0, n_routed_experts=2
)
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("release"), SMALL, shards=2)
    (folder / "assets").mkdir()
    (folder / "assets" / "film.mp4").write_bytes(b"x" * 100)
    return folder


@pytest.fixture
def hub(release, monkeypatch):
    """Served on localhost; the client's pauses between its attempts take no time."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    # What a broken piece held is lost to the client, so pieces are small here.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    with serving(release) as served:
        yield served


def get(hub: FakeHub, folder: Path) -> None:
    fetch(REPO, folder, ProgressDisplay(), HuggingFace(hub.url))


def require_same(release: Path, folder: Path) -> None:
    for path in release.glob("*.*"):
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_needed_files_arrive_whole(hub, release, tmp_path):
    get(hub, tmp_path / "got")
    require_same(release, tmp_path / "got")
    assert not (tmp_path / "got" / "assets").exists()
    assert not any("film" in path for _, path, _ in hub.asked)


def test_what_is_there_is_not_fetched_again(hub, tmp_path):
    get(hub, tmp_path / "got")
    before = len(hub.ranges(SHARD))
    get(hub, tmp_path / "got")
    assert before == 1 and len(hub.ranges(SHARD)) == 1


def test_a_dropped_line_is_continued_where_it_broke(hub, release, tmp_path):
    hub.cuts[SHARD] = [1000, 500]
    get(hub, tmp_path / "got")
    require_same(release, tmp_path / "got")
    assert hub.ranges(SHARD) == [None, "bytes=1000-", "bytes=1500-"]


def test_a_second_run_continues_the_first(hub, release, tmp_path):
    hub.cuts[SHARD] = [1000, *[0] * 5]  # more often than the client tries
    with pytest.raises(UsageError, match="run the command again, which continues"):
        get(hub, tmp_path / "got")
    hub.asked.clear()
    hub.cuts.clear()
    get(hub, tmp_path / "got")
    require_same(release, tmp_path / "got")
    assert hub.ranges(SHARD) == ["bytes=1000-"]


def test_a_file_that_only_lacks_its_name_is_not_asked_for(hub, release, tmp_path):
    """Killed between the last byte and the rename."""
    _, files = HuggingFace(hub.url).files(REPO)
    (tmp_path / "got").mkdir()
    partial = files[SHARD].partial(tmp_path / "got" / SHARD)
    partial.write_bytes((release / SHARD).read_bytes())
    get(hub, tmp_path / "got")
    require_same(release, tmp_path / "got")
    assert hub.ranges(SHARD) == [] and not partial.exists()


@pytest.mark.parametrize("name", [SHARD, "tokenizer.json"])
def test_a_file_with_another_hash_is_named(hub, tmp_path, name):
    hub.wrong.add(name)
    with pytest.raises(CheckpointError, match=f"{name} is not what the hub holds"):
        get(hub, tmp_path / "got")


def test_a_listed_file_that_is_not_there_is_named(hub, tmp_path):
    hub.missing.add(SHARD)
    with pytest.raises(UsageError, match=f"{REPO} cannot be fetched .*{SHARD}"):
        get(hub, tmp_path / "got")


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_says_what_to_do(hub, tmp_path, status):
    hub.gated = status
    with pytest.raises(UsageError, match=f"answered {status}.*hf auth login"):
        get(hub, tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_an_unknown_repository_is_one_sentence(hub, tmp_path):
    with pytest.raises(UsageError, match=r"nobody/V4 cannot be fetched"):
        fetch("nobody/V4", tmp_path / "got", ProgressDisplay(), HuggingFace(hub.url))


def test_no_connection_is_one_sentence(hub, tmp_path, monkeypatch):
    with serving(hub.folder) as gone:
        pass
    with pytest.raises(UsageError, match="check the name and the connection"):
        get(gone, tmp_path / "got")


def test_the_command_asks_the_hub_that_the_environment_names(hub, release, tmp_path):
    command = [sys.executable, "-m", "convert", "fetch", REPO, str(tmp_path / "got")]
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "all hashes are right" in done.stderr
    require_same(release, tmp_path / "got")
