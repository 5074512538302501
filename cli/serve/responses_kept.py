"""Responses that a later request goes on from, by their ids, each owner's own.

A response is kept with what it was asked beside the one that it went on from, so that a long
conversation is kept once. What nobody came to for longest goes first; a response is come to with
each of those that go on from it, and after them, so that it outlives them.
"""

import json
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

from cli.kept.private_files import new_file, private_folder
from cli.serve.faults import RequestFault
from dsv4_mlx.files.documents import DocumentError, content_of, parse_object, shown
from dsv4_mlx.files.file_systems import FileSystem

PREFIX: Final = "resp_"
MOST_RESPONSES: Final = 10_000
MOST_BYTES: Final = 512 << 20
MOST_MEMORY: Final = 64 << 20
"""Bytes of responses where no folder is given."""
_OLD_S: Final = 3600
"""Seconds after which a file that is not whole is nobody's."""
_ENDING: Final = ".json"
ResponseItem = Mapping[str, Any]
_SILENCE: Final[ResponseItem] = {"type": "message", "role": "assistant", "content": []}
"""What stands for a response without output, so that what is said next is a turn of its own."""


@dataclass(frozen=True)
class KeptResponse:
    """A response, and what was asked; `previous` is the id of what it went on from."""

    owner: str
    previous: str | None
    asked: Sequence[ResponseItem]
    response: Mapping[str, Any]

    def to_json(self) -> str:
        """Its file's content."""
        return json.dumps(vars(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, content: bytes | str) -> "KeptResponse | None":
        """What `to_json` gave; None for anything else."""
        try:
            found = parse_object(content)
            kept = cls(*(found[name] for name in ("owner", "previous", "asked", "response")))
        except (DocumentError, KeyError):
            return None
        named = isinstance(kept.owner, str) and isinstance(kept.previous, str | None)
        output = kept.response.get("output") if isinstance(kept.response, dict) else None
        is_whole = named and isinstance(kept.asked, list) and isinstance(output, list)
        return kept if is_whole else None


class KeptResponses:
    """The responses of all owners; for all threads."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        most: int = MOST_RESPONSES,
        most_bytes: int | None = None,
    ) -> None:
        """In files in `folder`, else in memory; OSError where the folder cannot be used."""
        self._files = FileSystem()
        self._folder = None if folder is None else private_folder(folder, self._files)
        default = MOST_MEMORY if folder is None else MOST_BYTES
        self._most, self._most_bytes = most, default if most_bytes is None else most_bytes
        self._lock = Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        """Bytes by id, what was come to longest ago first."""
        self._bytes = 0
        self._previous: dict[str, str | None] = {}
        """What each response went on from, as far as it was looked at."""
        self._contents: dict[str, str] = {}
        if self._folder is not None:
            _remove_partial(self._folder)
            for path in sorted(self._folder.glob(f"{PREFIX}*{_ENDING}"), key=_changed):
                self._count(path.name.removesuffix(_ENDING), path.stat().st_size)

    def put(self, kept: KeptResponse) -> None:
        """Keep a response; one that the disk has no room for is kept no further."""
        name, content = str(kept.response["id"]), kept.to_json()
        with self._lock:
            if self._write(name, content):
                self._count(name, len(content))
                self._previous[name] = kept.previous
                self._come_to(name)
            while self._sizes and (len(self._sizes) > self._most or self._bytes > self._most_bytes):
                self._forget(next(iter(self._sizes)))

    def get(self, owner: str, name: str) -> KeptResponse | None:
        """The response with this id; None where there is none of this owner."""
        with self._lock:
            kept = self._get(owner, name)
            self._come_to(name if kept is not None else None)
            return kept

    def delete(self, owner: str, name: str) -> bool:
        """Forget a response; whether there was one."""
        with self._lock:
            if self._get(owner, name) is None:
                return False
            self._forget(name)
            return True

    def history(self, owner: str, name: str) -> list[ResponseItem]:
        """All items up to the end of a response, from the first one's on.

        RequestFault where it, or one that it goes on from, is not kept.
        """
        chain: list[KeptResponse] = []
        wanted: str | None = name
        with self._lock:
            while wanted is not None:
                kept = self._get(owner, wanted)
                if kept is None or len(chain) > len(self._sizes):  # a file that leads to itself
                    raise RequestFault(
                        "not_kept",
                        f"The response {shown(wanted)} is not kept here; send the whole input in "
                        "the place of previous_response_id.",
                        "previous_response_id",
                    )
                chain.append(kept)
                wanted = kept.previous
            self._come_to(name)
        return [
            item
            for one in reversed(chain)
            for item in (*one.asked, *(one.response["output"] or [_SILENCE]))
        ]

    def item(self, owner: str, name: str) -> ResponseItem | None:
        """An item of a response by its own id, which carries that of the response."""
        _, _, rest = name.partition("_")
        kept = self.get(owner, PREFIX + rest.rpartition("_")[0])
        output = [] if kept is None else kept.response["output"]
        found = (item for item in output if isinstance(item, Mapping))
        return next((item for item in found if item.get("id") == name), None)

    def _get(self, owner: str, name: str) -> KeptResponse | None:
        if name not in self._sizes:
            return None
        kept = KeptResponse.from_json(self._read(name))
        if kept is None or kept.owner != owner:
            return None
        self._previous[name] = kept.previous
        return kept

    def _come_to(self, name: str | None) -> None:
        """Let a response, and then all that it goes on from, be what was come to last."""
        seen = set[str]()
        while name is not None and name in self._sizes and name not in seen:
            seen.add(name)
            self._sizes.move_to_end(name)
            if self._folder is not None:
                with suppress(OSError):
                    os.utime(self._path(name))
            name = self._previous.get(name)

    def _count(self, name: str, size: int) -> None:
        self._bytes += size - self._sizes.pop(name, 0)
        self._sizes[name] = size

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}{_ENDING}"

    def _read(self, name: str) -> bytes | str:
        if self._folder is None:
            return self._contents[name]
        try:
            return content_of(self._path(name), self._most_bytes)
        except (OSError, DocumentError):
            return b""

    def _write(self, name: str, content: str) -> bool:
        """Whether it is kept. A file is there whole or not at all, whenever the program ends or the
        power does, as with what the disk tier writes; which of the latest are there then is the
        folder's matter."""
        if self._folder is None:
            self._contents[name] = content
            return True
        partial = self._folder / f".{name}.{os.getpid()}"
        try:
            with open(new_file(partial, os.O_WRONLY), "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                self._files.sync(file.fileno(), partial)
            self._files.replace(partial, self._path(name))
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            return False
        return True

    def _forget(self, name: str) -> None:
        self._bytes -= self._sizes.pop(name)
        self._previous.pop(name, None)
        self._contents.pop(name, None)
        if self._folder is not None:
            with suppress(OSError):
                self._path(name).unlink(missing_ok=True)


def _remove_partial(folder: Path) -> None:
    """Remove what a program was writing when it was killed."""
    for path in folder.glob(f".{PREFIX}*"):
        if time.time() - path.stat().st_mtime > _OLD_S:
            path.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    return path.stat().st_mtime_ns
