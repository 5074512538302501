"""A hub's cache: `models--owner--name` with a folder of links for each revision in `snapshots`."""

from pathlib import Path

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.documents import DocumentError, content_of
from dsv4_mlx.files.paths import printable

_CONFIG = "config.json"


def model_folder(path: Path) -> Path:
    """`path`, or the newest snapshot of the repository whose cache it is.

    That is the one which `refs/main` names, else the one last written. CheckpointError when none
    of them holds a model.
    """
    root = path.parent if path.name == "snapshots" else path
    if (path / _CONFIG).exists() or not (root / "snapshots").is_dir():
        return path
    snapshots = [one for one in (root / "snapshots").iterdir() if (one / _CONFIG).is_file()]
    if not snapshots:
        raise CheckpointError(
            f"{printable(str(root))} is the cache of a hub without a finished snapshot: none has "
            f"a {_CONFIG}; download the model again."
        )
    main = _main(root)
    named = [one for one in snapshots if one.name == main]
    return (named or sorted(snapshots, key=_age))[0]


def snapshot_sentence(asked: Path, taken: Path) -> str | None:
    """Which snapshot stands for the cache that was asked for; None where nothing was chosen."""
    if asked == taken:
        return None
    return f"{printable(str(asked))}: snapshot {printable(taken.name)} of the hub's cache is used"


def _main(root: Path) -> str:
    try:
        return content_of(root / "refs" / "main", 1 << 10).decode("ascii").strip()
    except (OSError, DocumentError, UnicodeDecodeError):
        return ""


def _age(snapshot: Path) -> tuple[float, str]:
    """The newest first; names decide between folders of one moment."""
    return -snapshot.stat().st_mtime, snapshot.name
