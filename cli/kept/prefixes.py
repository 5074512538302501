"""What many messages begin with, kept as cache files: system prompts, attached files, piped text.

A file is named `MODEL-LENGTH-HASH.kv`: which model may read it, how many tokens it holds, and a
hash of them. So the longest stored prefix of a prompt is found from the names alone, in one pass
over the prompt. The files are found again or not; nothing depends on them.
"""

import hashlib
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.kept.disk_budget import remove_abandoned, shrink, touch
from cli.kept.private_files import NoHome, private_folder, state_home
from dsv4_mlx.files.file_systems import FileSystem

if TYPE_CHECKING:
    from dsv4_mlx.engine.engine import Engine

MINIMUM_TOKENS = 512
"""Reading fewer tokens again takes about as long as reading their file."""
_NAME = re.compile(r"[0-9a-f]{16}-([0-9]{1,9})-[0-9a-f]{32}\.kv")


class PrefixStore:
    """Stored prefixes of one model in a folder that several programs share.

    `model` tells apart whatever must not read each other's files: its fingerprint and how its cache
    is kept.
    """

    def __init__(
        self, root: Path, budget_bytes: int, model: str, *, minimum_tokens: int = MINIMUM_TOKENS
    ) -> None:
        self._root = root
        self._budget_bytes = budget_bytes
        self._model = hashlib.sha256(model.encode()).hexdigest()[:16]
        self._minimum_tokens = minimum_tokens

    def find(self, tokens: Sequence[int]) -> Path | None:
        """The file of the longest stored prefix of `tokens`."""
        stored = self._stored()
        lengths = sorted({length for length in stored.values() if length <= len(tokens)})
        try:
            names = self._names(tokens, lengths)
        except OverflowError:  # no token has such an id, and the model will say so
            return None
        found = [self._root / name for name in reversed(names) if name in stored]
        # Touched first, so that another program's clean-up takes it last.
        return next((path for path in found if touch(path)), None)

    def keep(self, tokens: Sequence[int]) -> Path | None:
        """Where to store `tokens` as a prefix; None when they are there or not worth it."""
        if len(tokens) < self._minimum_tokens or not self._budget_bytes:
            return None
        private_folder(self._root, FileSystem())
        self.shrink()
        path = self._root / self._names(tokens, [len(tokens)])[0]
        return None if touch(path) else path

    def shrink(self) -> None:
        """Remove the least recently used files until the rest fits the budget."""
        remove_abandoned(self._root.glob(".*.safetensors"))
        shrink(self._root.glob("*.kv"), self._budget_bytes)

    def _stored(self) -> dict[str, int]:
        """The lengths of this model's files by name."""
        matches = (_NAME.fullmatch(path.name) for path in self._root.glob(f"{self._model}-*.kv"))
        return {match[0]: int(match[1]) for match in matches if match}

    def _names(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """The names of the prefixes of `tokens` that have these ascending lengths."""
        digest, hashed, names = hashlib.sha256(self._model.encode()), 0, []
        for length in lengths:
            digest.update(array("I", tokens[hashed:length]).tobytes())
            hashed = length
            names.append(f"{self._model}-{length}-{digest.hexdigest()[:32]}.kv")
        return names


def stored_prefixes(
    variables: Mapping[str, str], budget_bytes: int, kv: str
) -> "Callable[[Engine], PrefixStore | None]":
    """A function that gives the stored prefixes of an engine's model, its cache kept as `kv`; None
    where there is no folder for them."""
    try:
        root = state_home(variables) / "prefixes"
    except NoHome:
        return lambda engine: None

    def of(engine: "Engine") -> PrefixStore:
        return PrefixStore(root, budget_bytes, f"{engine.model.fingerprint} {kv}")

    return of
