"""Packages that only some tests need come just before the first of these.

`@pytest.mark.needs("mcp")` names an extra of pyproject.toml; programs whose packages would disturb
ours get an environment of their own. `make test` sets DSV4_INSTALL, and
then a missing one is installed, outside the time limit of any test; without it, and where
installing fails, the tests themselves say what they lack. Of several test processes one installs
and the others wait.
"""

import fcntl
import importlib
import importlib.util
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.metalhost import toolchain

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


@dataclass(frozen=True)
class Extra:
    purpose: str
    size: str
    present: Callable[[], bool]
    is_apart: bool = False
    """Whether it goes into an environment of its own, where `program` finds it."""


def program(name: str) -> Path:
    """Where the program of an extra in an environment of its own is, or will be."""
    return Path(sys.prefix) / "apart" / name / "bin" / name


def _compiler() -> bool:
    """Whether metalhost has a compiler, or runs nowhere on this machine."""
    return toolchain.unsupported() is not None or toolchain.installed() is not None


EXTRAS = {
    "mcp": Extra(
        "tools of MCP servers",
        "6 MB to fetch, 28 MB installed",
        lambda: importlib.util.find_spec("mcp") is not None,
    ),
    "metalhost": Extra(
        "zig's clang, which compiles Metal texts for this CPU",
        "101 MB to fetch, 411 MB installed",
        _compiler,
    ),
    "sdks": Extra(
        "the SDKs of Anthropic and OpenAI",
        "94 MB installed",
        lambda: all(importlib.util.find_spec(name) for name in ("anthropic", "openai")),
    ),
    "aider": Extra(
        "aider, which edits files",
        "687 MB installed",
        lambda: program("aider").exists(),
        is_apart=True,
    ),
    "llm": Extra(
        "llm, which asks models from a shell",
        "83 MB installed",
        lambda: program("llm").exists(),
        is_apart=True,
    ),
}
_SETTLED: set[str] = set()
"""Extras that are there, or that this process tried to install."""


def wanted(name: str) -> bool:
    """Whether the extra is to be installed now: asked for, missing and not yet tried.

    What another process installs meanwhile is waited for: of a package half there some files are.
    """
    if not os.environ.get("DSV4_INSTALL") or name in _SETTLED:
        return False
    with _alone():
        importlib.invalidate_caches()
        is_there = EXTRAS[name].present()
    if is_there:
        _SETTLED.add(name)
    return not is_there


def announcement(name: str) -> str:
    return f"==> For the tests that come now, {EXTRAS[name].purpose}: {EXTRAS[name].size}"


def install(name: str, say: Callable[[str], None]) -> None:
    """pip installs what pyproject.toml lists for `name`; what it says goes to stderr, where a
    person sees it from any test process."""
    _SETTLED.add(name)
    with _alone():
        importlib.invalidate_caches()
        if EXTRAS[name].present():
            return
        say(announcement(name))
        python = sys.executable
        if EXTRAS[name].is_apart:
            folder = program(name).parents[1]
            subprocess.run([python, "-m", "venv", folder], check=False, stdout=sys.__stderr__)
            python = str(folder / "bin" / "python")
        pip = [python, "-m", "pip", "install", *requirements(name)]
        subprocess.run(pip, check=False, stdout=sys.__stderr__)
        importlib.invalidate_caches()


@contextmanager
def _alone() -> Iterator[None]:
    """One process per environment at a time; the system ends a hold with its process."""
    with open(Path(sys.prefix) / ".installing", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def requirements(name: str) -> list[str]:
    """The lines of an extra, with their conditions."""
    extras: dict[str, list[str]] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    return extras[name]
