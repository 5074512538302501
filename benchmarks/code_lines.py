"""Code lines of the product, and passages that two of its files share.

    python -m benchmarks.code_lines [FOLDER]

counts a checkout: this one, or another commit's in FOLDER. A code line is one that is neither blank
nor comment nor docstring. A shared passage is six code lines or more that stand alike in two files,
however far they are indented; imports and generated files do not count.
"""

import argparse
import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations, groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("metal_kernels", "dsv4_mlx", "convert", "cli")
KERNEL_TEXTS = (".metal", ".cu", ".cuh", ".c")
LEAST = 6
_LAYOUT = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
)  # fmt: skip

Lines = dict[int, str]
"""Code lines by their number, stripped."""


def code_lines(file: Path, *, imports: bool = True) -> Lines:
    """The code lines of a file, those of a Python file's import statements where `imports`."""
    source = file.read_text(encoding="utf-8")
    return python_lines(source, imports=imports) if file.suffix == ".py" else text_lines(source)


def python_lines(source: str, *, imports: bool = True) -> Lines:
    """The code lines of a Python text, without the comments at their ends."""
    kept: set[int] = set()
    comments: dict[int, int] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.start[1]
        elif token.type not in _LAYOUT:
            kept.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        left_out = _is_docstring(node) or (
            not imports and isinstance(node, ast.Import | ast.ImportFrom)
        )
        if left_out and isinstance(node, ast.stmt):
            kept.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = source.split("\n")
    found = {number: lines[number - 1][: comments.get(number)].strip() for number in sorted(kept)}
    return {number: line for number, line in found.items() if line}


def _is_docstring(node: ast.AST) -> bool:
    """Whether a node is a text that stands alone, as docstrings of all kinds do."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def text_lines(source: str) -> Lines:
    """The code lines of a Metal, CUDA or C text."""
    plain = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), source, flags=re.DOTALL)
    lines = (line.partition("//")[0].strip() for line in plain.split("\n"))
    return {number: line for number, line in enumerate(lines, 1) if line}


def product_files(root: Path = ROOT) -> dict[str, list[Path]]:
    """The files of each package that hold code."""
    return {
        package: sorted(
            file for file in (root / package).rglob("*") if file.suffix in (".py", *KERNEL_TEXTS)
        )
        for package in PACKAGES
    }


def shared_passages(texts: Mapping[str, Lines], least: int = LEAST) -> list[str]:
    """Passages of `least` lines or more that two texts have in common, each as
    `one:line, other:line, so many lines`."""
    numbers = {name: list(lines) for name, lines in texts.items()}
    places = defaultdict(list)
    for name, lines in texts.items():
        said = list(lines.values())
        for start in range(len(said) - least + 1):
            places[tuple(said[start : start + least])].append((name, start))
    # Windows of the same two files at the same distance that follow each other are one passage.
    windows = sorted(
        (one, other, begin - start, start)
        for found in places.values()
        for (one, start), (other, begin) in combinations(found, 2)
        if one != other
    )
    runs = groupby(enumerate(windows), key=lambda item: (*item[1][:3], item[1][3] - item[0]))
    passages = []
    for (one, other, distance, _), run in runs:
        starts = [window[3] for _, window in run]
        first, second = numbers[one][starts[0]], numbers[other][starts[0] + distance]
        length = len(starts) + least - 1
        passages.append(f"{one}:{first}, {other}:{second}, {length} lines")
    return passages


def product_passages(root: Path = ROOT) -> list[str]:
    """The passages that product files share, generated ones left out."""
    files = [
        file
        for found in product_files(root).values()
        for file in found
        if "\nWritten by `make pages`" not in file.read_text(encoding="utf-8")
    ]
    return shared_passages(
        {file.relative_to(root).as_posix(): code_lines(file, imports=False) for file in files}
    )


def _row(name: str, files: Iterable[Path]) -> tuple[str, int, int, int]:
    """A package's name, its files, and their code lines in Python and in kernel texts."""
    counts = [(file.suffix == ".py", len(code_lines(file))) for file in files]
    python = sum(count for is_python, count in counts if is_python)
    return name, len(counts), python, sum(count for _, count in counts) - python


def main() -> None:
    """Print the counts of each package, then every shared passage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="a checkout")
    root = parser.parse_args().folder
    rows = [_row(*item) for item in product_files(root).items()]
    total = [sum(column) for column in zip(*(row[1:] for row in rows), strict=True)]
    print(f"{'package':<15}{'files':>6}{'Python':>8}{'kernel texts':>14}")
    for name, files, python, texts in (*rows, ("all", *total)):
        print(f"{name:<15}{files:>6}{python:>8,}{texts:>14,}")
    print("\n".join(["", "shared passages:", *(product_passages(root) or ["none"])]))


if __name__ == "__main__":
    main()
