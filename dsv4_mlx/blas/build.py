"""Compile C once per user into a cache that many processes share, and load it.

The file's name carries a hash of sources, flags and machine, so another version compiles its own.
It appears under that name by one rename: a process sees all of it or nothing.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ALWAYS = ("-std=c11", "-shared", "-fPIC")


class NotBuilt(Exception):
    """A library could not be compiled; the message says why and what to do."""


@dataclass(frozen=True)
class CLibrary:
    """Sources that make one library; `headers` and `made_for` only decide when they are stale."""

    name: str
    sources: Sequence[Path]
    flags: Sequence[str] = ("-O2",)
    headers: Sequence[Path] = ()
    made_for: str = ""
    """The processor, where flags tie the library to it."""

    @property
    def file_name(self) -> str:
        recipe = b"".join(file.read_bytes() for file in (*self.sources, *self.headers))
        recipe += " ".join((*_ALWAYS, *self.flags, platform.machine(), self.made_for)).encode()
        return f"{self.name}-{hashlib.sha256(recipe).hexdigest()[:16]}.so"


SHIM = CLibrary("blas-shim", [Path(__file__).with_name("shim.c")])


def load(library: CLibrary) -> ctypes.CDLL:
    """The library, global in this process; compiled first if need be. Raises NotBuilt."""
    try:
        cached = _cache_folder() / library.file_name
        if not cached.is_file():
            cached.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _compile_to(cached, library)
        return _load_global(cached)
    except (OSError, RuntimeError):
        # A read-only or missing home: this process compiles for itself. Once loaded, the file
        # may go.
        with tempfile.TemporaryDirectory(prefix="dsv4-mlx-") as folder:
            return _load_global(_compile_to(Path(folder) / library.file_name, library))


def _load_global(file: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


def _compile_to(target: Path, library: CLibrary) -> Path:
    import subprocess

    handle, scratch = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(handle)
    try:
        files = [str(source) for source in library.sources]
        command = [*_compiler(), *_ALWAYS, *library.flags, "-o", scratch, *files]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise NotBuilt(f"{command[0]} could not compile {library.name}: {done.stderr.strip()}")
        os.replace(scratch, target)
    finally:
        Path(scratch).unlink(missing_ok=True)
    return target


def _compiler() -> list[str]:
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        words = command.split()
        if words and shutil.which(words[0]):
            return words
    raise NotBuilt("no C compiler was found to build its OpenBLAS shim; install one, or set CC")


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "dsv4-mlx" if base else Path("~/.cache/dsv4-mlx").expanduser()
