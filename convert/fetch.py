"""`fetch REPO_ID DST`: the files of a release from the Hugging Face hub, resumable, hashes checked.

config.json comes first, so that a model of another kind is refused before its weights are loaded.
"""

import json
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from convert.progress import Progress
from convert.report import free_bytes, size_text
from convert.sources import sha256_of
from convert.writer import COMPANIONS
from dsv4_mlx.checkpoint import INDEX_FILE, open_checkpoint
from dsv4_mlx.config import DeepseekV4Config
from dsv4_mlx.errors import CheckpointError, UsageError

_NEEDED = ("config.json", INDEX_FILE, "*.safetensors", *COMPANIONS)


class Hub(Protocol):
    """What is asked of the hub; tests answer themselves."""

    def files(self, repo: str) -> tuple[str, dict[str, tuple[int, str | None]]]:
        """The newest revision, and its files: size, and SHA-256 where the hub knows it."""

    def download(self, repo: str, revision: str, names: list[str], folder: Path) -> None:
        """Those files into `folder`, continuing what is half there."""


class HuggingFace:
    """The hub through its own client."""

    def files(self, repo: str) -> tuple[str, dict[str, tuple[int, str | None]]]:
        from huggingface_hub import HfApi

        info = _told(repo, lambda: HfApi().model_info(repo, files_metadata=True))
        files = {
            one.rfilename: (one.size or 0, one.lfs.sha256 if one.lfs else None)
            for one in info.siblings or ()
        }
        return str(info.sha), files

    def download(self, repo: str, revision: str, names: list[str], folder: Path) -> None:
        from huggingface_hub import snapshot_download

        _told(
            repo,
            lambda: snapshot_download(
                repo, revision=revision, local_dir=folder, allow_patterns=names
            ),
        )


def _told(repo: str, ask: Any) -> Any:
    """The answer; what the client raises becomes a sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return ask()
    except (HfHubHTTPError, HFValidationError, ConnectionError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(
            f"{repo} cannot be fetched ({reason}); check the name and the connection, then run the "
            "command again, which continues."
        ) from error


def fetch(repo: str, folder: Path, progress: Progress, hub: Hub | None = None) -> None:
    """Fetch, compare hashes, and open the result as the converter will."""
    hub = hub or HuggingFace()
    revision, files = hub.files(repo)
    needed = sorted(name for name in files if any(fnmatchcase(name, one) for one in _NEEDED))
    if "config.json" not in needed:
        raise CheckpointError(f"{repo} has no config.json; give the repository of a V4 release.")
    folder.mkdir(parents=True, exist_ok=True)
    hub.download(repo, revision, ["config.json"], folder)
    _require_v4(folder)
    left = sum(files[name][0] for name in needed if not (folder / name).is_file())
    if free_bytes(folder) < left:
        raise UsageError(
            f"{repo} needs {size_text(left)} more, but {folder} has only "
            f"{size_text(free_bytes(folder))} free."
        )
    progress.say(f"{repo} at {revision[:12]}: {len(needed)} files, {size_text(left)} to fetch")
    hub.download(repo, revision, needed, folder)
    for name in needed:
        _require_hash(folder / name, *files[name])
    open_checkpoint(folder)
    progress.say(f"done: {folder}, all hashes are right", "done", destination=str(folder))


def _require_v4(folder: Path) -> None:
    try:
        keys = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'} is not valid JSON.") from error
    DeepseekV4Config.from_dict(keys)


def _require_hash(path: Path, size: int, sha256: str | None) -> None:
    found = path.stat().st_size if path.is_file() else 0
    if found == size and (sha256 is None or sha256_of(path, Event()) == sha256):
        return
    raise CheckpointError(
        f"{path} is not what the hub holds: {found} of {size} bytes, or another SHA-256; delete it "
        "and fetch again."
    )
