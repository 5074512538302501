"""What stands in the input and is not sent yet, kept in case the terminal or the program is lost.

Each running program has one file for its owner alone, which it holds locked. A file that nobody
holds is a draft that was lost; the next program in the same folder takes it over, so no draft is
offered twice, and none is gone before it is sent or deleted.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cli.kept.private_files import private_folder
from cli.show.screen.paste import Parts, is_parts
from dsv4_mlx.files.documents import DocumentError, parse_json
from dsv4_mlx.files.file_systems import FileSystem, write_at

_SUFFIX = ".json"
_MOST_BYTES = 64 << 20


class Drafts:
    """The drafts of one run, of a person who works in `workplace`; `folder` None keeps none."""

    def __init__(self, folder: Path | None = None, workplace: Path = Path()) -> None:
        self.conversation: Callable[[], str] = str
        """Gives the id of the open conversation, "" for a new one."""
        self._folder = folder
        # Of any bytes, spelled in what JSON holds.
        self._workplace = os.fsencode(workplace).decode("utf-8", "backslashreplace")
        self._path: Path | None = None
        self._descriptor = -1
        self._kept: Parts = ""

    def take(self) -> Parts:
        """The newest draft that was lost here, from now on the draft of this run; "" for none."""
        for path in self._others():
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                parts = self._read(descriptor)
                if parts and path.exists():
                    self.close()
                    self._path, self._descriptor, self._kept = path, descriptor, parts
                    return parts
                os.close(descriptor)
        return ""

    def keep(self, parts: Parts) -> None:
        """Keep `parts`, and nothing where that is ""; what cannot be kept is no reason to stop."""
        if self._folder is None or parts == self._kept:
            return
        self._kept = parts
        with suppress(OSError):
            if parts:
                self._write(parts)
            elif self._path is not None:
                self._path.unlink(missing_ok=True)
                self.close()

    def close(self) -> None:
        """Let the next program have what is kept."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._path, self._descriptor = None, -1

    def _write(self, parts: Parts) -> None:
        facts = {"folder": self._workplace, "conversation": self.conversation()}
        record = facts | {"pid": os.getpid(), "input": parts}
        line = json.dumps(record).encode("ascii") + b"\n"
        if self._descriptor < 0:
            self._begin()
        # In place, since the lock is on this file; after the first line may stand an older end.
        write_at(self._descriptor, line, 0)
        os.ftruncate(self._descriptor, len(line))

    def _begin(self) -> None:
        assert self._folder is not None
        private_folder(self._folder, FileSystem())
        path = self._folder / f"{secrets.token_hex(8)}{_SUFFIX}"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._path = path
        with suppress(OSError):  # without locks the process decides
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _others(self) -> Iterator[Path]:
        """Files of drafts, newest first."""
        if self._folder is None:
            return
        found = []
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(_SUFFIX) and entry.is_file(follow_symlinks=False):
                    found.append((entry.stat().st_mtime_ns, entry.path))
        yield from (Path(path) for _, path in sorted(found, reverse=True))

    def _read(self, descriptor: int) -> Parts:
        """A draft that nobody holds and that belongs here; "" for any other."""
        is_locked = _lock(descriptor)
        line = os.read(descriptor, _MOST_BYTES).split(b"\n")[0]
        try:
            record = parse_json(line)
        except DocumentError:
            return ""
        if not isinstance(record, dict) or is_locked is False:
            return ""
        if is_locked is None and _runs(record.get("pid")):
            return ""
        now, then = self.conversation(), record.get("conversation")
        if record.get("folder") != self._workplace or (now and then and now != then):
            return ""
        parts = record.get("input")
        return parts if is_parts(parts) else ""


def _lock(descriptor: int) -> bool | None:
    """Whether it is ours now; None where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _runs(process: object) -> bool:
    if not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
