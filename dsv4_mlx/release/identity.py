"""Which release a folder holds, by what was written down about it and by the release's own name.

A folder may be called anything, so its name counts only where it is a release's, however it goes
on: `DeepSeek-V4-Flash-0731-q4`. What `fetch` and a conversion noted comes before any name.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.documents import read_object

CONVERSION_FILE = "conversion.json"
"""Written last by `convert`, so its presence means that the folder is whole."""
FETCHED_FILE = "fetched.json"
"""Which repository and revision `fetch` put into a folder."""

_SIZE = re.compile(r"(?<![a-z0-9])v4[-_. ]?(flash|pro)(?![a-z0-9])", re.IGNORECASE)
_EDITION = re.compile(r"(?<![a-z0-9])(base|dspark|0731)(?![a-z0-9])", re.IGNORECASE)
_SPELLED = {"flash": "Flash", "pro": "Pro", "base": "Base", "dspark": "DSpark", "0731": "0731"}


def release_of(folder: Path) -> str | None:
    """The release in `folder`, such as DeepSeek-V4-Flash-0731; None where nothing names one."""
    recorded = conversion_facts(folder).get("release")
    if isinstance(recorded, str) and (known := release_in(recorded)):
        return known
    return next(filter(None, map(release_in, _names(folder))), None)


def release_in(name: str) -> str | None:
    """The release that a name names, whatever else it says; None for any other name."""
    size = _SIZE.search(name)
    if size is None:
        return None
    edition = _EDITION.search(name, size.end())
    parts = [size[1], edition[1]] if edition else [size[1]]
    return "-".join(["DeepSeek-V4", *(_SPELLED[part.lower()] for part in parts)])


def name_of(folder: Path) -> str:
    """What a person calls the model in `folder`: in a hub's cache the repository's name, where the
    folder's own is a revision."""
    resolved = folder.resolve()
    repository = _repository_in_cache(resolved)
    return repository.rpartition("/")[2] if repository else resolved.name


def conversion_facts(folder: Path) -> dict[str, Any]:
    """What `conversion.json` says; empty where there is none that can be read."""
    return _noted(folder / CONVERSION_FILE)


def _names(folder: Path) -> Iterator[str]:
    """The repository's name as `fetch` noted it or a hub's cache has it, then the folder's own."""
    fetched = _noted(folder / FETCHED_FILE).get("repository")
    if isinstance(fetched, str):
        yield fetched
    for path in (folder.resolve(), folder.absolute()):
        if repository := _repository_in_cache(path):
            yield repository
        yield path.name


def _repository_in_cache(path: Path) -> str | None:
    """owner/name of `models--owner--name/snapshots/revision`."""
    *_, repository, between, _ = ("", "", "", *path.parts)
    if between != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/", 1)


def _noted(path: Path) -> dict[str, Any]:
    try:
        return read_object(path) if path.is_file() else {}
    except (CheckpointError, OSError):
        return {}
