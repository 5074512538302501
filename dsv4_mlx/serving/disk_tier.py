"""Timelines on disk: each file holds what grew since another one, so that little is written.

After an answer the timeline is written as a cache file that goes on from the file of the place
where it began (`cache.pieces`); what many prompts begin with is a file of its own, which others go
on from. A file is written whole or not at all, see `disk_writer`, and named by a hash of its
tokens, its model and its owner, so whatever a kill leaves behind is found by its name or removed;
nothing else is kept beside the files. They are read when a prompt comes to them, and one that is
damaged goes, with those that go on from it.

The files that nobody came to for longest go first, and of a chain the last one.
"""

import hashlib
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dsv4_mlx.cache.pieces import CacheOutline
from dsv4_mlx.errors import CacheError
from dsv4_mlx.serving.disk_writer import DiskWriter, HourlyBytes, Writing
from dsv4_mlx.serving.stored import StoredFile, StoredPlace, name_of, tokens_of
from dsv4_mlx.serving.token_tree import TokenTree

if TYPE_CHECKING:
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.engine.session import Session

LEAST_TOKENS: Final = 256
"""Reading fewer tokens again takes about as long as reading their file."""
_LONGEST_CHAIN: Final = 64
"""Files that go on from one another; after so many one is written whole."""
_PLACE_BYTES: Final = 1 << 26
MOST_PER_HOUR: Final = 10 * 10**9
"""Bytes written in an hour, so that no client wears a disk out: around the clock 88 TB a year."""


class DiskTier:
    """The files of one model in a folder of this program's alone; for the model's thread."""

    def __init__(
        self,
        folder: Path,
        engine: "Engine",
        budget_bytes: int,
        *,
        clock: Callable[[], float],
        most_per_hour: int = MOST_PER_HOUR,
        least_tokens: int = LEAST_TOKENS,
        hand: Executor | None = None,
    ) -> None:
        """At most `budget_bytes` of files, and `most_per_hour` bytes written in an hour of `clock`.
        `hand` finishes them one after the other on a thread of its own, where one is given.

        OSError for a folder that cannot be made or read.
        """
        self.budget_bytes, self.hourly = budget_bytes, HourlyBytes(most_per_hour, clock)
        self.least_tokens = least_tokens
        self._folder, self._engine = folder, engine
        self._model = hashlib.sha256(engine.model.fingerprint.encode()).hexdigest()[:16]
        self._writer = DiskWriter(engine.caches.outline, hand)
        self._unfinished: deque[StoredFile] = deque()
        self._files: dict[str, StoredFile] = {}
        self._trees: dict[str, TokenTree[StoredPlace]] = {}
        self._uses = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open()

    def __len__(self) -> int:
        """How many files there are."""
        return len(self._files)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self._files.values())

    def find(self, tokens: Sequence[int], owner: str = "") -> StoredPlace | None:
        """The deepest stored place from which `tokens` can be read on."""
        length = len(tokens)
        return self._deepest(tokens, owner, lambda place: place.offset < length or place.has_logits)

    def _deepest(
        self, tokens: Sequence[int], owner: str, usable: Callable[[StoredPlace], bool]
    ) -> StoredPlace | None:
        tree = self._trees.get(_hashed(owner))
        nodes = () if tree is None else tree.match(tokens).nodes
        places = (node.held for node in reversed(nodes))
        return next((place for place in places if place is not None and usable(place)), None)

    def load(self, place: StoredPlace) -> "Session | None":
        """A session at `place`; None, and its file is gone, where that is damaged."""
        place.file.wait()
        self.settle()
        if self._files.get(place.file.path.name) is not place.file:
            return None
        session = self._engine.session()
        try:
            session.load(place.file.path)
            if array("i", session.tokens) != place.file.tokens:
                raise CacheError(f"{place.file.path} holds other tokens than its name says.")
        except (CacheError, OSError):
            self._remove_all(place.file)
            return None
        session.rewind(place.offset)
        self._use(place.file)
        return session

    def store(
        self, session: "Session", owner: str = "", beginnings: Sequence[int] = (), reused: int = 0
    ) -> Writing | None:
        """Write what `session` has grown by since the stored place where it began, at `reused` or
        before; the beginnings that end at places of it as files of their own. What to wait for
        until all of it lies on the disk, if it does not yet.

        What the disk does not take is left out.
        """
        self._store(session, owner, beginnings, reused)
        return self._unfinished[-1].written if self._unfinished else None

    def settle(self) -> None:
        """Take in what lies on the disk by now, in its order."""
        while self._unfinished and self._unfinished[0].is_finished:
            self._take_in(self._unfinished.popleft())

    def _store(
        self, session: "Session", owner: str, beginnings: Sequence[int], reused: int
    ) -> None:
        tokens = session.tokens
        for offset in beginnings:
            if self.least_tokens <= offset < len(tokens) and self._is_new(tokens[:offset], owner):
                save = partial(session.save_place, offset=offset)
                self._write(tokens[:offset], owner, save, None)
        if len(tokens) < self.least_tokens or not self._is_new(tokens, owner):
            return
        known = max((reused, *(offset for offset in beginnings if offset < len(tokens))))
        found = self._deepest(tokens, owner, lambda place: place.offset <= known)
        if found is not None and found.file.chain >= _LONGEST_CHAIN:
            found = None
        parent, since = (None, 0) if found is None else (found.file, found.offset)
        name = "" if parent is None else parent.path.name
        save = partial(session.save, place_bytes=_PLACE_BYTES, parent=name, since=since)
        self._write(tokens, owner, save, parent, since)

    def forget(self, owner: str) -> None:
        """Remove all files of `owner`."""
        mine = [file for file in self._files.values() if file.owner == _hashed(owner)]
        for file in mine:
            self._remove_all(file)

    # Writing

    def _is_new(self, tokens: Sequence[int], owner: str) -> bool:
        """Whether there is no file of these tokens; one that is there counts as used."""
        file = self._files.get(self._name(tokens, owner))
        if file is not None:
            self._use(file)
        return file is None

    def _write(
        self,
        tokens: Sequence[int],
        owner: str,
        save: Callable[[Path], None],
        parent: StoredFile | None,
        since: int = 0,
    ) -> None:
        if not self.hourly.allows_more:
            return
        path = self._folder / self._name(tokens, owner)
        try:
            written = self._writer.write(path, save)
        except (CacheError, OSError, RuntimeError):
            return
        file = self._add(path, CacheOutline("", list(tokens[since:]), [], "", since), parent, 0)
        file.written = written
        self._use(file)
        self._unfinished.append(file)
        self.settle()

    def _take_in(self, file: StoredFile) -> None:
        if file.written is None or self._files.get(file.path.name) is not file:
            return
        if file.written.exception() is not None:
            self._remove_all(file)
            return
        found, file.written = file.written.result(), None  # which holds its tokens once more
        file.nbytes = found.nbytes
        self.hourly.add(found.nbytes)
        self._lead_to(file, found.outline.places)
        self._use(file)
        self._shrink()

    def _shrink(self) -> None:
        while self.nbytes > self.budget_bytes and self._files:
            leaves = (file for file in self._files.values() if not file.children)
            self._remove(min(leaves, key=lambda file: file.used))

    def _use(self, file: StoredFile) -> None:
        self._uses += 1
        for one in file.upward():
            one.used = self._uses
            with suppress(OSError):
                os.utime(one.path)

    # What is there

    def _name(self, tokens: Sequence[int], owner: str) -> str:
        return name_of(self._model, _hashed(owner), array("i", tokens))

    def _open(self) -> None:
        """Find the files that a run before left; what cannot be used is removed."""
        for path in self._folder.glob(".*.safetensors"):  # half written when a program was killed
            path.unlink(missing_ok=True)
        waiting: dict[str, tuple[Path, CacheOutline]] = {}
        for path in self._folder.glob(f"{self._model}-*.kv"):
            try:
                waiting[path.name] = path, self._engine.caches.outline(path)
            except CacheError:
                path.unlink(missing_ok=True)
        while waiting:
            ready = [
                name
                for name, (_, found) in waiting.items()
                if not found.parent or found.parent in self._files
            ]
            for name in ready or list(waiting):
                path, outline = waiting.pop(name)
                parent = self._files.get(outline.parent)
                if not self._fits(path, outline, parent):
                    path.unlink(missing_ok=True)
                else:
                    self._add(path, outline, parent, path.stat().st_size)
        by_age = sorted(self._files.values(), key=lambda file: file.path.stat().st_mtime_ns)
        for used, file in enumerate(by_age, 1):
            file.used = used
        self._uses = len(by_age)
        self._shrink()

    def _fits(self, path: Path, outline: CacheOutline, parent: StoredFile | None) -> bool:
        """Whether a file is what its name says and goes on from a file that is there."""
        if outline.fingerprint != self._engine.model.fingerprint:
            return False
        if outline.parent and (parent is None or len(parent.tokens) < outline.since):
            return False
        owner = path.name.split("-")[1]
        try:
            return path.name == name_of(self._model, owner, tokens_of(outline, parent))
        except (OverflowError, TypeError):
            return False

    def _add(
        self, path: Path, outline: CacheOutline, parent: StoredFile | None, nbytes: int
    ) -> StoredFile:
        owner = path.name.split("-")[1]
        tokens = tokens_of(outline, parent)
        file = StoredFile(path, owner, tokens, parent, outline.since, nbytes, 0)
        self._files[path.name] = file
        if parent is not None:
            parent.children += 1
        self._lead_to(file, (*outline.places, len(tokens)))
        return file

    def _lead_to(self, file: StoredFile, offsets: Iterable[int]) -> None:
        tree, tokens = self._trees.setdefault(file.owner, TokenTree()), file.tokens
        for offset in offsets:
            node = tree.place(tokens[:offset])
            if node.held is None or offset == len(tokens):
                node.held = StoredPlace(file, offset)

    def _remove_all(self, file: StoredFile) -> None:
        """Remove a file and those that go on from it."""
        for other in list(self._files.values()):
            if other.parent is file and other.path.name in self._files:
                self._remove_all(other)
        if file.path.name in self._files:
            self._remove(file)

    def _remove(self, file: StoredFile) -> None:
        file.wait()
        with suppress(OSError):
            file.path.unlink(missing_ok=True)
        del self._files[file.path.name]
        if file.parent is not None:
            file.parent.children -= 1
        tree = self._trees[file.owner]
        for node in list(tree):
            if node.held is not None and node.held.file is file:
                tree.drop(node)


def _hashed(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()[:16]
