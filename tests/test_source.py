"""The product's files are short enough to be read at one sitting, and mark code in one way."""

import re
from pathlib import Path

from benchmarks.code_lines import ROOT, product_files

MOST_LINES, MOST_LONG_FILES = 300, 6
REASON = re.compile(r"300\s+lines\s+because\b")


def long_files() -> set[Path]:
    return {
        file
        for files in product_files().values()
        for file in files
        if len(file.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }


def head(file: Path) -> str:
    """The first words of a file: its docstring, or the comment it begins with."""
    text = file.read_text(encoding="utf-8")
    found = re.match(r'"""(.*?)"""', text, re.DOTALL) or re.match(r"(?:\s*//.*\n)+", text)
    return re.sub(r"\n\s*//", " ", found[0]) if found else ""


def test_few_product_files_are_long_and_each_says_why() -> None:
    unexplained = {file for file in long_files() if not REASON.search(head(file))}
    names = {file.relative_to(ROOT).as_posix() for file in unexplained}
    assert names == set()
    assert len(long_files()) <= MOST_LONG_FILES


def test_code_in_docstrings_stands_in_single_back_ticks() -> None:
    doubled = re.compile(r"(?<!`)``(?!`)")
    files = [file for found in product_files().values() for file in found if file.suffix == ".py"]
    assert [
        f"{file.relative_to(ROOT)}:{number}"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if doubled.search(line)
    ] == []
