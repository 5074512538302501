"""The embedded folder is the release's format: transformers reads it by itself, and agrees."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import dsv4_mlx
from dsv4_mlx import Numerics

NANO = Path(dsv4_mlx.__file__).parent / "nano"
TOKENS = np.random.default_rng(3).integers(3, 1000, (1, 150))

pytestmark = pytest.mark.parity


def test_transformers_loads_the_embedded_model_from_its_folder() -> None:
    import torch
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    theirs = AutoModelForCausalLM.from_pretrained(
        NANO, quantization_config=FineGrainedFP8Config(dequantize=True)
    )
    with torch.inference_mode():
        expected = theirs.float().eval()(torch.from_numpy(TOKENS)).logits.numpy()
    ours, _ = dsv4_mlx.load(NANO, numerics=Numerics.PLAIN, backend="cpu")
    np.testing.assert_allclose(np.array(ours(mx.array(TOKENS))), expected, atol=1e-4)
