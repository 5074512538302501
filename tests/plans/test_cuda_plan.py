"""Whole models on the CUDA sources, executed on this CPU, against the references.

Rounded numerics are the Metal texts' business (tests/plans/test_metal_plan.py): these are the same
texts, and here the calls between them and the model count.
"""

from pathlib import Path

import pytest

from tests.kernels.cuda_host import cuda_host_plan
from tests.plans.test_metal_plan import assert_same_logits, folder_of

pytestmark = pytest.mark.needs("metalhost")


@pytest.mark.parametrize("name", ["tiny", "nano"])
def test_prefill_and_decode(tmp_path: Path, name: str) -> None:
    with cuda_host_plan("fast") as plan:
        assert_same_logits(plan, folder_of(name, tmp_path), [9, 1, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[130, 1, 1], [5, 1, 60, 3, 64, 1]], ids=str)
@pytest.mark.parametrize("name", ["tiny", "tiny512", "nano"])
def test_any_calls(tmp_path: Path, name: str, sizes: list[int]) -> None:
    with cuda_host_plan("fast") as plan:
        assert_same_logits(plan, folder_of(name, tmp_path), sizes)
