"""Finds clang, compiles kernel texts and the runtime, and keeps the results in a cache folder.

Either the `ziglang` package (whose zig is also a clang and an lld) or clang 18 or newer on the
PATH. METALHOST_CLANG names another clang.
"""

import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TARGET = "--target=x86_64-linux-gnu"
CPU = ("-mavx2", "-mf16c", "-mfma")
OLDEST_CLANG = 18


class ToolchainError(RuntimeError):
    """No compiler here, or a machine that the runner does not know."""


@dataclass(frozen=True)
class Toolchain:
    clang: tuple[str, ...]
    """Command of the raw clang driver."""
    cc: tuple[str, ...]
    """Command of a C compiler with headers of the C library."""
    link: tuple[str, ...]
    version: str

    def run(self, command: Sequence[str | Path]) -> str:
        """Run a command; its diagnostics, or CompileFailed with them."""
        words = [str(word) for word in command]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise CompileFailed(done.stderr)
        return done.stderr


class CompileFailed(Exception):
    """The compiler refused; the argument is what it said."""


def unsupported() -> str | None:
    """Why texts cannot run on this machine, whatever is installed; None where they can."""
    machine = (platform.system(), platform.machine())
    if machine != ("Linux", "x86_64") or sys.byteorder != "little":
        return f"metalhost runs on Linux x86-64, not on {' '.join(machine)}"
    if not all(flag in _cpu_flags() for flag in ("avx2", "f16c", "fma")):
        return "metalhost needs a CPU with AVX2, F16C and FMA"
    return None


def installed() -> Toolchain | None:
    """The compiler that this machine has; None for none."""
    return _named_clang() or _zig() or _system_clang()


@functools.cache
def toolchain() -> Toolchain:
    if reason := unsupported():
        raise ToolchainError(reason)
    found = installed()
    if found is None:
        raise ToolchainError(
            f"metalhost needs `pip install ziglang` or clang {OLDEST_CLANG} or newer on the PATH"
        )
    return found


def _cpu_flags() -> set[str]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    line = re.search(r"^flags\s*:(.*)$", text, re.M)
    return set(line[1].split()) if line else set()


def _zig() -> Toolchain | None:
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        return None
    zig = Path(spec.origin).parent / "zig"
    if not zig.is_file():
        return None
    # `zig cc` brings the C library's headers; only the raw driver accepts C++ for OpenCL.
    return Toolchain(
        clang=(str(zig), "clang"),
        cc=(str(zig), "cc", "-target", "x86_64-linux-gnu.2.28", "-fno-sanitize=all"),
        link=(str(zig), "ld.lld"),
        version=_version((str(zig), "clang")),
    )


def _system_clang() -> Toolchain | None:
    names = ["clang", *(f"clang-{n}" for n in range(30, OLDEST_CLANG - 1, -1))]
    for path in filter(None, map(shutil.which, names)):
        version = _version((path,))
        number = re.search(r"version (\d+)", version)
        if number and int(number[1]) >= OLDEST_CLANG:
            return Toolchain((path,), (path,), (path, "-nostdlib"), version)
    return None


def _named_clang() -> Toolchain | None:
    path = os.environ.get("METALHOST_CLANG")
    return Toolchain((path,), (path,), (path, "-nostdlib"), _version((path,))) if path else None


def _version(command: tuple[str, ...]) -> str:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    return done.stdout.split("\n")[0]


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(root) / "metalhost").resolve()


@functools.cache
def own_text_key() -> str:
    """Hash of what makes objects: an edit of it compiles everything anew."""
    digest = hashlib.sha256()
    makers = [HERE / name for name in ("text.py", "build.py", "toolchain.py")]
    for file in sorted(
        [*HERE.glob("msl/*"), *HERE.glob("cuda/*"), *HERE.glob("runtime/*"), *makers]
    ):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def cached(key: Sequence[str], build: Callable[[Path], None]) -> Path:
    """The folder that `build` filled for this key; processes may race, one of them wins."""
    parts = [own_text_key(), toolchain().version, *key]
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    place = cache_folder() / name[:2] / name
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=place.parent, prefix=".build-"))
    try:
        build(work)
        try:
            work.rename(place)
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return place


@functools.cache
def runtime_library() -> Path:
    return cached(("runtime",), _build_runtime) / "runtime.so"


def _build_runtime(folder: Path) -> None:
    tools = toolchain()
    flags = ("-O3", "-fPIC", "-std=gnu17", "-fno-stack-protector", "-Wall", "-Wextra", *CPU)
    objects = []
    for file in sorted((HERE / "runtime").glob("*.c")):
        objects.append(folder / f"{file.stem}.o")
        tools.run([*tools.cc, *flags, "-c", file, "-o", objects[-1]])
    tools.run([*tools.link, "-shared", "-o", folder / "runtime.so", *objects])
