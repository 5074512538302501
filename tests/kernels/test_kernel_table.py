"""docs/kernels.md and metal_kernels/ops.py say what the declarations say."""

from benchmarks.kernel_protocol import MODULE, module
from benchmarks.kernel_table import PAGE, page
from metal_kernels.registry import NAMES


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run make pages"


def test_the_committed_type_of_the_ops_is_current() -> None:
    assert MODULE.read_text(encoding="utf-8") == module(), "run make pages"


def test_the_page_has_a_row_and_a_section_for_every_kernel() -> None:
    text = page()
    for name in NAMES:
        assert f"| [{name}](#{name}) |" in text
        assert f"\n## {name}\n" in text
