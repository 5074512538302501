"""Compile shim.c once per user into a cache that many processes share, and load it.

The file's name carries a hash of the source, the flags and the machine, so another version compiles
its own. It appears under that name by one rename: a process sees all of it or nothing.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
_FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC")


class NotBuilt(Exception):
    """The shim could not be compiled; the message says why and what to do."""


def load_shim() -> ctypes.CDLL:
    """The compiled shim, global in this process; compiled first if need be. Raises NotBuilt."""
    try:
        cached = _cache_folder() / _file_name()
        if not cached.is_file():
            cached.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _compile_to(cached)
        return _load_global(cached)
    except (OSError, RuntimeError):
        # A read-only or missing home: this process compiles for itself. Once loaded, the file
        # may go.
        with tempfile.TemporaryDirectory(prefix="dsv4-mlx-") as folder:
            return _load_global(_compile_to(Path(folder) / _file_name()))


def _load_global(file: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


def _compile_to(target: Path) -> Path:
    import subprocess

    handle, scratch = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(handle)
    try:
        command = [*_compiler(), *_FLAGS, "-o", scratch, str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise NotBuilt(f"{command[0]} could not compile {SOURCE.name}: {done.stderr.strip()}")
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


def _file_name() -> str:
    recipe = SOURCE.read_bytes() + " ".join((*_FLAGS, platform.machine())).encode()
    return f"blas-shim-{hashlib.sha256(recipe).hexdigest()[:16]}.so"


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "dsv4-mlx" if base else Path("~/.cache/dsv4-mlx").expanduser()
