"""Whose drafts a converted folder holds: a mark in the files that have draft blocks.

A drafter serves the checkpoint that it was trained with and no other, of the same shapes though
they may be: June's DSpark and 0731 differ in nothing but values. So a conversion writes the
fingerprint of the source's backbone into the headers of files with draft blocks, `backbone`, and
into conversion.json. Files of the release carry no mark.
"""

from collections.abc import Mapping
from pathlib import Path

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import TensorEntry, read_metadata
from dsv4_mlx.release.identity import CONVERSION_FILE, conversion_facts
from dsv4_mlx.release.naming import is_draft

DRAFT_MARK = "backbone"


def require_own_drafts(folder: Path, tensors: Mapping[str, TensorEntry]) -> None:
    """CheckpointError for drafts in a converted folder that another checkpoint's conversion wrote.

    Folders and files from before there were marks have none, which is then the same on both sides.
    """
    if not (folder / CONVERSION_FILE).is_file():
        return
    expected = conversion_facts(folder).get(DRAFT_MARK)
    for path in sorted({entry.path for name, entry in tensors.items() if is_draft(name)}):
        if (found := read_metadata(path).get(DRAFT_MARK)) != expected:
            raise CheckpointError(
                f"{path.name} in {folder} holds the drafts of another checkpoint (backbone "
                f"{_short(found)}, expected {_short(expected)}); put back the file that was "
                "written with this folder, or convert again."
            )


def _short(mark: object) -> str:
    return mark[:12] if isinstance(mark, str) else "unmarked"
