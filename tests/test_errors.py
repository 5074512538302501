"""Errors have one form: a sentence that ends in a full stop, which nobody adds afterwards.

The exceptions of Python itself are read by the code that catches them, and may be less.
"""

import ast
import builtins
from collections.abc import Iterator

import pytest

from benchmarks.code_lines import ROOT, product_files

# What is said of a line, a document or a compiler, and becomes a sentence where its name is known.
FRAGMENTS = {"LineError", "DocumentError", "NotBuilt", "ArgumentTypeError"}
# Errors that say first of which kind they are.
OF_A_KIND = {"RequestFault"}


def texts(source: str) -> Iterator[tuple[int, list[str]]]:
    """Line and pieces of each text that an exception of ours is raised with.

    A piece is a literal, or `{name}` for a value. Texts that a function made are not seen.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Raise(
                exc=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[*said])
            ) if (
                said and name[0].isupper() and name not in FRAGMENTS and not hasattr(builtins, name)
            ):
                text = said[name in OF_A_KIND]
                yield from ((node.lineno, found) for found in pieces(text))


def pieces(text: ast.expr) -> Iterator[list[str]]:
    """The pieces of a literal text; of both where a condition chooses."""
    match text:
        case ast.Constant(value=str(literal)):
            yield [literal]
        case ast.JoinedStr(values=values):
            yield [
                part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
                for part in values
            ]
        case ast.BinOp(right=right):
            yield from pieces(right)
        case ast.IfExp(body=body, orelse=other):
            yield from pieces(body)
            yield from pieces(other)


def ends_well(found: list[str]) -> bool:
    """Whether a text ends as a sentence, its own or another error's."""
    if found[-1] == "{error}":
        return True
    return found[-1].endswith((".", "?")) and found != ["{error}", "."]


def test_every_error_ends_as_a_sentence() -> None:
    offenders = [
        f"{file.relative_to(ROOT)}:{line}"
        for files in product_files().values()
        for file in files
        if file.suffix == ".py"
        for line, found in texts(file.read_text(encoding="utf-8"))
        if not ends_well(found)
    ]
    assert offenders == []


@pytest.mark.parametrize(
    ("raised", "well"),
    [
        ("Bad('x is y; do z.')", True),
        ("RequestFault('invalid', 'x is y; do z.')", True),
        ("RequestFault('invalid.', 'x is y')", False),
        ("Bad(f'{path}: {error}')", True),
        ("Bad('is it?')", True),
        ("Bad('x is y')", False),
        ("Bad('x is ' 'y')", False),
        ("Bad(f'x is {y}')", False),
        ("errors.Bad(f'x is {y}')", False),
        ("Bad('x.' if x else 'y')", False),
        ("Bad(f'{error}.')", False),
    ],
)
def test_the_end_of_a_text_is_judged(raised: str, well: bool) -> None:
    found = [one for _, one in texts(f"raise {raised}")]
    assert found and all(map(ends_well, found)) is well


def test_exceptions_of_python_and_fragments_are_left_alone() -> None:
    assert list(texts("raise ValueError('no')\nraise LineError('no')\nraise made('no')")) == []
