"""What counts as a line of code, and that no two product files share a passage."""

import re
from pathlib import Path

import pytest

from benchmarks.code_lines import (
    code_lines,
    product_files,
    product_passages,
    python_lines,
    shared_passages,
    text_lines,
)

# Parameters of the same arrays, and the local names of two texts of one sum: nothing to factor out.
SHARED_DECLARATIONS = {
    ("cli/models.py", "cli/remote/remote_models.py"),
    ("cli/ranks/far_side.py", "cli/remote/remote_side.py"),
    ("dsv4_mlx/engine/timeline.py", "dsv4_mlx/engine/timeline_reading.py"),
    ("dsv4_mlx/model/compression.py", "dsv4_mlx/model/indexer.py"),
    ("metal_kernels/hc_head/reference.py", "metal_kernels/hc_pre/reference.py"),
    ("metal_kernels/hc_post_pre/hc_post_mix.metal", "metal_kernels/hc_pre/hc_mix.metal"),
    ("metal_kernels/hc_post_pre/reference.py", "metal_kernels/hc_pre/reference.py"),
    (
        "metal_kernels/index_topk/index_scores.metal",
        "metal_kernels/index_topk/index_scores_fma.metal",
    ),
    (
        "metal_kernels/sparse_attention/sparse_attention.metal",
        "metal_kernels/sparse_attention/sparse_attention_matrix.metal",
    ),
}
PYTHON = '''"""A module."""

import os  # a comment

X = 1
"""What X is."""


# Another comment.
def f(
    x,
):
    """One
    two."""
    return """a

b # no comment"""
'''


def test_comments_docstrings_and_blanks_are_no_code() -> None:
    assert python_lines(PYTHON) == {
        3: "import os",
        5: "X = 1",
        10: "def f(",
        11: "x,",
        12: "):",
        15: 'return """a',
        17: 'b # no comment"""',
    }
    assert 3 not in python_lines(PYTHON, imports=False)


def test_comments_of_kernel_texts_are_no_code() -> None:
    text = "// one\nint a = 1; // two\n\n/* three\nfour */ int b; /* five */\n"
    assert text_lines(text) == {2: "int a = 1;", 5: "int b;"}


def test_every_package_has_files_and_code() -> None:
    files = product_files()
    assert set(files) == {"metal_kernels", "dsv4_mlx", "convert", "cli"}
    assert all(files.values())
    assert len(code_lines(Path(__file__))) < len(Path(__file__).read_text().splitlines())


def test_a_shared_passage_is_found_once_at_its_full_length() -> None:
    passage = {number: f"line {number}" for number in range(10, 18)}
    moved = {number + 5: line for number, line in passage.items()}
    texts = {"a": {1: "x", **passage}, "b": {**moved, 99: "y"}, "c": {1: "z"}}
    assert shared_passages(texts) == ["a:10, b:15, 8 lines"]
    assert shared_passages(texts, least=9) == []
    assert shared_passages({"a": {**passage, **{n + 20: t for n, t in passage.items()}}}) == []


@pytest.mark.slow
def test_product_files_share_no_passage() -> None:
    found = {tuple(re.findall(r"([^\s:]+):\d+", passage)) for passage in product_passages()}
    assert found <= SHARED_DECLARATIONS
