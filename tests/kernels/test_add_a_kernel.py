"""The kernel that docs/add_a_kernel.md walks through, made from the page's own blocks."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels
from benchmarks import kernel_protocol
from metal_kernels import registry, sources
from metal_kernels.contract import Kernel
from metal_kernels.registry import NAMES, kernels
from tests.kernels import float64_kernels as twins
from tests.kernels.float64_kernels import Rounding, float64
from tests.kernels.host import assert_text_matches

pytestmark = pytest.mark.needs("metalhost")

PAGE = Path(__file__).parents[2] / "docs" / "add_a_kernel.md"
NAME = "scale_rows"
FIRST_LINES = {
    '"""Every row times its own number."""': "reference.py",
    '"""Rows times their weights."""': "__init__.py",
    '"""Geometry of the rows\' product."""': "launch.py",
    "// Rows times their weights. One thread makes one number.": f"{NAME}.metal",
}


def blocks() -> list[str]:
    return re.findall(
        r"^```(?:python|cpp)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S
    )


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """The kernel in a folder that stands beside the others."""
    folder = tmp_path / NAME
    folder.mkdir()
    for text in blocks():
        if file := FIRST_LINES.get(text.splitlines()[0]):
            (folder / file).write_text(text, encoding="utf-8")
    own_path = sources.path
    monkeypatch.setattr(
        sources,
        "path",
        lambda backend, name: folder / f"{NAME}.metal" if name == NAME else own_path(backend, name),
    )
    monkeypatch.setattr(metal_kernels, "__path__", [*metal_kernels.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "NAMES", (*NAMES, NAME))
    kernels.cache_clear()
    yield kernels()[NAME]
    kernels.cache_clear()
    for module in [m for m in sys.modules if m.startswith(f"metal_kernels.{NAME}")]:
        del sys.modules[module]


def test_its_text_equals_its_reference(kernel: Kernel) -> None:
    assert [case.id for case in kernel.cases] == ["one-row", "odd-sizes"]
    for case in kernel.cases:
        assert_text_matches(kernel, case.make(7), case.id)


def test_its_float64_twin_equals_its_reference(kernel: Kernel) -> None:
    """The twin of the page, run among the others' names."""
    (source,) = (text for text in blocks() if text.startswith(f"def {NAME}(a: Arguments"))
    scope = dict(vars(twins))
    exec(source, scope)
    arguments = kernel.cases[1].make(7)
    (exact,) = scope[NAME](float64(arguments), Rounding())
    np.testing.assert_allclose(np.array(kernel.reference(**arguments)), exact, rtol=1e-6)


def test_its_test_file_passes(kernel: Kernel) -> None:
    """The file of the page, in which `SIZES` are as many calls as pytest would make of it."""
    (source,) = (text for text in blocks() if "\ndef test_sizes(" in text)
    scope: dict[str, Any] = {}
    exec(source, scope)
    assert scope["KERNEL"] is kernel and scope["SIZES"]
    for sizes in scope["SIZES"]:
        scope["test_sizes"](sizes)
    scope["test_nan_fills_its_row"]()


def test_the_type_of_the_ops_gets_its_signature(kernel: Kernel) -> None:
    signature = ["    def scale_rows(", "self,", "x: mx.array,", "weights: mx.array,"]
    assert "\n        ".join(signature) + "\n    ) -> mx.array:\n" in kernel_protocol.module()


def test_a_size_outside_its_contract_is_refused(kernel: Kernel) -> None:
    arguments = kernel.cases[1].make(0)
    arguments["weights"] = mx.zeros(8)
    with pytest.raises(ValueError, match=r"scale_rows: expected M = 7 in weights \[M\]"):
        getattr(registry.bind("metal").ops, NAME)(**arguments)


def test_the_page_names_files_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    root = PAGE.parents[1]
    named = set(re.findall(r"`((?:metal_kernels|tests|benchmarks|docs)/[\w/.]+)`", text))
    missing = {name for name in named if NAME not in name and not (root / name).exists()}
    assert named and not missing
