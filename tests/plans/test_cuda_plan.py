"""Whole models on the CUDA sources, executed on this CPU, against the references.

Rounded numerics are the Metal texts' business (tests/plans/test_metal_plan.py): these are the same
texts, and here the calls between them and the model count.
"""

from pathlib import Path

import pytest

from tests.kernels.cuda_host import cuda_host_plan
from tests.plans.test_metal_plan import assert_same_logits, folder_of

pytestmark = pytest.mark.needs("metalhost")


@pytest.mark.parametrize("name", ["tiny", pytest.param("nano", marks=pytest.mark.slow)])
def test_prefill_and_decode(tmp_path: Path, name: str) -> None:
    with cuda_host_plan("fast") as plan:
        assert_same_logits(plan, folder_of(name, tmp_path), [9, 1, 1, 1])


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        pytest.param("tiny", [130, 1, 1], marks=pytest.mark.slow),
        pytest.param("tiny512", [5, 1, 60, 3, 64, 1], marks=pytest.mark.slow),
        pytest.param("nano", [5, 1, 60, 3, 64, 1], marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_any_calls(tmp_path: Path, name: str, sizes: list[int]) -> None:
    with cuda_host_plan("fast") as plan:
        assert_same_logits(plan, folder_of(name, tmp_path), sizes)
