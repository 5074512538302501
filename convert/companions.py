"""The files beside the weights that a reader of the model needs, copied as they are."""

import errno
from collections.abc import Collection, Iterator
from pathlib import Path

from convert.disk import Disk
from convert.progress import ProgressDisplay
from dsv4_mlx.files.paths import is_utf8
from dsv4_mlx.files.system_files import is_system_file

COMPANIONS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "chat_template*", "*.jinja", "LICENSE*", "encoding/**/*",
)  # fmt: skip
"""Their names, as glob patterns."""

# How disks refuse a name: too long for them, or made of what they cannot write.
_NO_SUCH_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)


def copy_companions(
    source: Path, folder: Path, disk: Disk, progress: ProgressDisplay
) -> dict[str, int]:
    """The bytes of each file that was copied to `folder`, by its name there; OSError.

    Those whose names the disk cannot hold are left out, which is said.
    """
    sizes: dict[str, int] = {}
    for path in sorted(set(_companions(source))):
        name = path.relative_to(source)
        if problem := _copied(path, name, folder, sizes, disk):
            progress.say(f"{path} is left out: {problem}.")
        elif is_utf8(str(name)):  # JSON can say no other
            sizes[name.as_posix()] = path.stat().st_size
    return sizes


def _companions(source: Path) -> Iterator[Path]:
    for pattern in COMPANIONS:
        for path in source.glob(pattern):
            names = path.relative_to(source).parts
            if path.is_file() and not any(map(is_system_file, names)):
                yield path


def _copied(
    path: Path, name: Path, folder: Path, copied: Collection[str], disk: Disk
) -> str | None:
    """Copy one file; why not, where the disk cannot hold one of that name."""
    target = folder / name
    for other in copied:
        alike = other.casefold() == name.as_posix().casefold()
        if alike and target.exists() and target.samefile(folder / other):
            return f"the disk of {folder} does not tell its name from {other}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        disk.put(target, path.read_bytes())
    except OSError as error:
        if error.errno not in _NO_SUCH_NAME:
            raise
        return f"the disk of {folder} takes no such name ({error.strerror})"
    return None
