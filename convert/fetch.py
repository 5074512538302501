"""`fetch REPO_ID DST`: the files of a release from the Hugging Face hub, resumable, hashes checked.

config.json comes first, so that a model of another kind is refused before its weights are loaded.
"""

import hashlib
import json
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Event

from convert.companions import COMPANIONS
from convert.disk import Disk
from convert.hub import Hub, HubFile, HuggingFace
from convert.progress import ProgressDisplay
from convert.report import size_text
from convert.room import free_bytes
from convert.sources import sha256_of
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.system_files import is_system_file
from dsv4_mlx.release.config_file import read_config
from dsv4_mlx.release.identity import FETCHED_FILE
from dsv4_mlx.weights.checkpoint import INDEX_FILE, open_checkpoint

_CONFIG = "config.json"
# A pattern without "/" is for files beside config.json; one with it is for all below.
_NEEDED = (_CONFIG, INDEX_FILE, "*.safetensors", *COMPANIONS, "encoding/*")


def fetch(repo: str, folder: Path, progress: ProgressDisplay, hub: Hub | None = None) -> None:
    """Fetch, compare hashes, and open the result as the converter will."""
    hub = hub or HuggingFace()
    revision, files = hub.files(repo)
    needed = {name: file for name, file in sorted(files.items()) if _is_needed(name)}
    if _CONFIG not in needed:
        raise CheckpointError(f"{repo} has no config.json; give the repository of a V4 release.")
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_there(folder / _CONFIG, needed[_CONFIG]):
        first = {_CONFIG: needed[_CONFIG]}
        hub.download(repo, revision, first, folder, ProgressDisplay())
    read_config(folder)
    missing = {name: file for name, file in needed.items() if not _is_there(folder / name, file)}
    left = sum(file.size - _arrived(folder / name, file) for name, file in missing.items())
    free = free_bytes(folder)
    if free is not None and free < left:
        raise UsageError(
            f"{repo} needs {size_text(left)} more, but {folder} has only {size_text(free)} free; "
            "make room or give a folder on another disk."
        )
    progress.say(f"{repo} at {revision[:12]}: {len(needed)} files, {size_text(left)} to fetch")
    progress.begin(sum(file.size for file in missing.values()))
    hub.download(repo, revision, missing, folder, progress)
    for name, file in needed.items():
        _require_hash(folder / name, file)
    open_checkpoint(folder)
    noted = json.dumps({"repository": repo, "revision": revision}, indent=2) + "\n"
    Disk(progress.say).put(folder / FETCHED_FILE, noted.encode())
    progress.say(f"done: {folder}, all hashes are right", "done", destination=str(folder))


def _is_needed(name: str) -> bool:
    patterns = (one for one in _NEEDED if "/" in one or "/" not in name)
    ours = not any(map(is_system_file, name.split("/")))
    return ours and any(fnmatchcase(name, one) for one in patterns)


def _is_there(path: Path, file: HubFile) -> bool:
    """A small file by its hash, a large one by its size: its hash is taken in the end."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return file.git_sha1 is None or _git_sha1(path) == file.git_sha1


def _arrived(path: Path, file: HubFile) -> int:
    arrived = file.partial(path)
    return arrived.stat().st_size if arrived.is_file() else 0


def _git_sha1(path: Path) -> str:
    """As git names the content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _require_hash(path: Path, file: HubFile) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"{path} did not arrive; check the connection and run the command again, which "
            "continues."
        )
    if _is_there(path, file) and (file.sha256 is None or sha256_of(path, Event()) == file.sha256):
        return
    raise CheckpointError(
        f"{path} is not what the hub holds: {path.stat().st_size} of {file.size} bytes, or another "
        "hash; delete it and fetch again."
    )
