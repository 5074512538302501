"""A model whose experts are read from files, by the ways of a GPU: its own texts, executed here.

MLX's packed products are the CPU's, which multiply row by row: what they sum for tiles of rows on a
Mac is not shown.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.loading import load_model
from dsv4_mlx.model.layers import ExpertsLinear
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.kernels.host import host_plan
from tests.model import streamed

TOKENS = np.random.default_rng(2).integers(2, streamed.SMALL.vocab_size, 44).tolist()


@pytest.mark.slow
@pytest.mark.needs("metalhost")
@pytest.mark.parametrize("numerics", list(Numerics), ids=lambda one: one.value)
def test_bits_by_the_ways_of_a_gpu(
    tmp_path: Path, numerics: Numerics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of 40 tokens takes blocks of one expert, 7 tokens and one take single rows."""
    folder, blocks = streamed.written(tmp_path, "official"), []
    by_blocks = ExpertsLinear.by_blocks
    monkeypatch.setattr(ExpertsLinear, "by_blocks", lambda *a: blocks.append(1) or by_blocks(*a))
    with host_plan("fast") as plan:
        options: dict[str, Any] = {"dtype": mx.bfloat16, "numerics": numerics, "kernels": plan}
        models = [
            load_model(
                open_checkpoint(folder),
                expert_memory=None if slots is None else streamed.memory_of(folder, slots),
                **options,
            )
            for slots in (None, streamed.SMALL.num_experts_per_tok, 5)
        ]
        for prompt in (40, 7):
            expected, *found = (
                streamed.logits(model, TOKENS[: prompt + 2], prompt) for model in models
            )
            for one in found:
                np.testing.assert_array_equal(one, expected)
            assert bool(blocks) is (prompt == 40)
            blocks.clear()
