"""Which kind of drafts stored tensors are: MTP blocks, DSpark's stages, or those of V4.1.

config.json says which the model has, and names of tensors tell the kinds apart: an MTP block has
`e_proj` and `h_proj`, DSpark's first stage `main_proj` and its last a Markov head. Both kinds are
`mtp.N.*`, so that one read as the other would draft noise.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.release.config import DraftKind
from dsv4_mlx.release.naming import is_draft

_MARKS: Mapping[DraftKind, tuple[str, ...]] = {
    "mtp": ("e_proj", "h_proj", "enorm", "hnorm"),
    "dspark": ("main_proj", "main_norm", "markov_head", "confidence_head"),
}
_V41 = (".markov_head.embed.", ".markov_head.head.")
_WORDS: Mapping[DraftKind, str] = {"mtp": "an MTP block", "dspark": "DSpark's stages"}


def require_kind(kind: DraftKind | None, files: Mapping[str, Path]) -> None:
    """CheckpointError for drafts that are not of `kind`, which config.json describes.

    `files` by the name of each stored tensor; `kind` None says nothing of the tensors.
    """
    for name, path in files.items():
        if not is_draft(name):
            continue
        if any(mark in name for mark in _V41):
            raise CheckpointError(
                f"{name} in {path.name} belongs to the draft stages of DeepSeek-V4.1, which read "
                "other streams and route to other experts; expected drafts of this V4 checkpoint, "
                "so use the files that came with it."
            )
        found = next((one for one, marks in _MARKS.items() if _part(name) in marks), kind)
        if kind is not None and found != kind:
            raise CheckpointError(
                f"config.json describes {_WORDS[kind]}, but {name} in {path.name} belongs to "
                f"{_WORDS[found or kind]}; April's releases have MTP blocks and V4-Flash-0731 has "
                "DSpark's stages, so use the files of one checkpoint."
            )


def _part(name: str) -> str:
    """The part of a block that a tensor is of: `mtp.0.main_proj.weight` -> `main_proj`."""
    return next((part for part in name.split(".")[1:] if not part.isdigit()), "")


def block_numbers(names: Iterable[str]) -> dict[str, str]:
    """Numbers of the draft blocks as stored -> counted from zero; some files start at one."""
    stored = {match[1] for name in names if (match := re.match(r"mtp\.(\d+)\.", name))}
    return {number: str(position) for position, number in enumerate(sorted(stored, key=int))}
