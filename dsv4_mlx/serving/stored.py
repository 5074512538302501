"""Files of the disk tier and the places they lead to, as values."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dsv4_mlx.cache.pieces import CacheOutline
from dsv4_mlx.serving.disk_writer import Writing


@dataclass(eq=False)
class StoredFile:
    """One file of the tier."""

    path: Path
    owner: str
    tokens: "array[int]" = field(repr=False)
    """All of its timeline."""
    parent: "StoredFile | None"
    since: int
    nbytes: int
    used: int
    children: int = 0
    written: Writing | None = field(default=None, repr=False)
    """What to wait for until it lies on the disk, of one that this program wrote."""

    def wait(self) -> None:
        """Wait until it and those it goes on from are written, or are not."""
        for one in self.upward():
            if one.written is not None:
                one.written.exception()

    @property
    def is_finished(self) -> bool:
        """Whether nothing has to be waited for."""
        return self.written is None or self.written.done()

    @property
    def chain(self) -> int:
        """Files that have to be read for it."""
        return 1 + (0 if self.parent is None else self.parent.chain)

    def upward(self) -> "Iterator[StoredFile]":
        """This file and those it goes on from."""
        file: StoredFile | None = self
        while file is not None:
            yield file
            file = file.parent


@dataclass(frozen=True)
class StoredPlace:
    """A place that `file` leads to; at the end of its tokens the logits are known too."""

    file: StoredFile
    offset: int

    @property
    def has_logits(self) -> bool:
        return self.offset == len(self.file.tokens)


def tokens_of(outline: CacheOutline, parent: StoredFile | None) -> "array[int]":
    """All tokens of a file that goes on from `parent`."""
    before = array("i") if parent is None else parent.tokens[: outline.since]
    return before + array("i", outline.tokens)


def name_of(model: str, owner: str, tokens: "array[int]") -> str:
    """The name of the file of these tokens, of the hashes of a model and an owner."""
    digest = hashlib.sha256(tokens.tobytes()).hexdigest()[:32]
    return f"{model}-{owner}-{len(tokens)}-{digest}.kv"
