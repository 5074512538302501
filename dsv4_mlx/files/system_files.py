"""Files that systems leave in every folder they show, mount or share: nobody's data.

A folder with nothing else is empty, and none of them is ever a shard, however it ends: macOS puts
`._model.safetensors` beside `model.safetensors` on disks that keep no attributes (AppleDouble).
"""

import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import TypeVar

PathT = TypeVar("PathT", bound=PurePath)

_NAMES = frozenset(
    {
        # macOS: Finder, Spotlight, the journal of changes, the bin, volumes
        ".ds_store", ".localized", ".apdisk", ".spotlight-v100", ".fseventsd", ".trashes",
        ".temporaryitems", ".documentrevisions-v100", ".volumeicon.icns", "icon\r",
        ".metadata_never_index", ".com.apple.timemachine.donotpresent", ".appledouble",
        # Windows: thumbnails, folder settings, the bin, restore points
        "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "desktop.ini", "$recycle.bin",
        "system volume information",
        # Linux: the root of an ext file system, bins, folder settings
        "lost+found", ".directory",
        # network disks: thumbnails, bins, snapshots
        "@eadir", "#recycle", "@recycle", ".snapshot", ".snapshots", ".zfs",
    }
)  # fmt: skip
_FORMS = re.compile(r"\._.*|\.trash-\d+|\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+", re.DOTALL)


def is_system_file(name: str) -> bool:
    """Whether a file or folder of this name is a system's and nobody's."""
    return name.lower() in _NAMES or _FORMS.fullmatch(name.lower()) is not None


def without_system_files(paths: Iterable[PathT]) -> list[PathT]:
    """Those of the paths that somebody put there, in their order."""
    return [path for path in paths if not is_system_file(path.name)]
