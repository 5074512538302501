"""docs/sources.md says what the code's citations refer to, and which test notices which pitfall."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model.test_pitfalls import LAST_ROW, MODULES, NOT_HERE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
FOLDERS = ("metal_kernels", "dsv4_mlx", "convert", "cli", "tests", "benchmarks")
# What a docstring calls a text that somebody else wrote.
CITED = re.compile(
    r"\b(?:paper|(?:official|release's|inference) (?:encoder|code|engine|config|checkpoint)"
    r"|arXiv:[\d.]+\d)\b"
)
PARTS = re.compile(r"§[\d.]*\d|\beqs?\. [\d-]+")


def docstrings(source: str) -> Iterator[str]:
    """Every docstring of a text, its spaces and line ends as single spaces."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield " ".join((ast.get_docstring(node) or "").split())


def first_cells(heading: str) -> list[str]:
    """The first cell of every row of the first table after a line that begins with `heading`."""
    rows = PAGE.split(heading, 1)[1].split("\n|---", 1)[1].split("\n\n")[0]
    return [row.split("|")[1].strip() for row in rows.splitlines()[1:]]


@pytest.fixture(scope="module")
def cited() -> str:
    """All docstrings of the project."""
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    return "\n".join(
        text for file in files for text in docstrings(file.read_text(encoding="utf-8"))
    )


def test_every_cited_text_has_a_row(cited: str) -> None:
    listed = {name for cell in first_cells("# Sources") for name in cell.split(", ")}
    aliases = {"official code": "inference code", "inference engine": "official engine"}
    names = {aliases.get(name, name) for name in CITED.findall(cited)}
    assert "paper" in names and names <= listed


def test_the_parts_of_the_paper_are_those_that_the_code_cites(cited: str) -> None:
    listed = {part for cell in first_cells("What the code cites") for part in cell.split(", ")}
    assert listed == set(PARTS.findall(cited))


def test_the_revisions_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {
        *project["optional-dependencies"]["parity"],
        *project["optional-dependencies"]["bench"],
        *project["dependencies"],
    }
    for name in ("transformers", "mlx-vlm", "mlx-lm"):
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| {name} |"))
        version = row.strip("| ").rpartition("| ")[2]
        assert any(re.match(rf"{name}[=>]={re.escape(version)}\b", line) for line in asked), name


def test_the_table_of_pitfalls_names_the_check_of_every_row() -> None:
    noticed: dict[int, list[str]] = {}
    for module in MODULES:
        place = Path(module.__file__).relative_to(ROOT).as_posix()
        for pitfall in module.PITFALLS.found:
            text = f"`{pitfall.check.__name__}` in `{place}`"
            noticed.setdefault(pitfall.row, []).append(text)
    rows = re.findall(r"^\| (\d+) \| ([A-Z][^|]+\.) \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert [int(row) for row, _, _ in rows] == list(range(1, LAST_ROW + 1))
    for row, _, where in rows:
        assert where == (NOT_HERE.get(int(row)) or ", ".join(noticed[int(row)]))


def test_rows_that_docstrings_name_are_in_the_table(cited: str) -> None:
    named = re.findall(r"[Pp]itfalls of [^.]*: rows? ([^.]+)\.", cited)
    numbers = {int(number) for text in named for number in re.findall(r"\d+", text)}
    assert len(named) == len(MODULES) and numbers <= set(range(1, LAST_ROW + 1))


def test_docstrings_are_found_wherever_they_stand() -> None:
    source = '"""One\n two."""\nclass A:\n    """Three."""\n    def f(self):\n        """Four."""\n'
    assert list(docstrings(source)) == ["One two.", "Three.", "Four."]
