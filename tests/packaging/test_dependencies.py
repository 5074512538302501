"""pyproject.toml declares what our packages import, each package itself, and nothing else."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"metal_kernels", "dsv4_mlx", "convert", "cli"}
# Extras of the program; the others are tools of whoever works on it.
EXTRAS = ("cuda12", "cuda13", "grammar", "mcp", "serve")
# Imported under another name than the distribution's.
DISTRIBUTIONS = {"markdown_it": "markdown-it-py"}


def imported(source: str) -> Iterator[str]:
    """Top-level names that a text imports, or looks up by `find_spec("name")`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]
            case ast.Call(
                func=ast.Name("find_spec") | ast.Attribute(attr="find_spec"),
                args=[ast.Constant(str(name))],
            ):
                yield name


def distribution(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub("[-_.]+", "-", DISTRIBUTIONS.get(name, name)).lower()


def declared(document: str, extras: tuple[str, ...]) -> set[str]:
    """The distributions that a pyproject.toml asks for, with those of `extras`."""
    project = tomllib.loads(document)["project"]
    optional = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    return {distribution(re.match(r"[\w.-]+", line).group()) for line in lines}


@pytest.fixture(scope="module")
def used() -> set[str]:
    names = {
        name
        for package in OURS
        for file in (ROOT / package).rglob("*.py")
        for name in imported(file.read_text(encoding="utf-8"))
    }
    return {distribution(name) for name in names - OURS - sys.stdlib_module_names}


def test_every_import_is_declared_and_every_declared_package_is_imported(used: set[str]) -> None:
    asked = declared((ROOT / "pyproject.toml").read_text(encoding="utf-8"), EXTRAS)
    assert asked == used


def test_imports_are_seen_wherever_they_stand() -> None:
    source = (
        "import a.b, c\nfrom d.e import f\nfrom . import g\n"
        "def late():\n    from h import i\n    find_spec('j')\n    util.find_spec('k')\n"
    )
    assert sorted(imported(source)) == ["a", "c", "d", "h", "j", "k"]


def test_declarations_are_read_with_their_conditions() -> None:
    document = """[project]
dependencies = ["Scipy_OpenBLAS32>=0.3; platform_system == 'Linux'", "mlx[cpu]>=0.32,<0.33"]
[project.optional-dependencies]
one = ["mcp"]
two = ["torch==2"]
"""
    assert declared(document, ("one",)) == {"scipy-openblas32", "mlx", "mcp"}
