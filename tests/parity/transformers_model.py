"""transformers' DeepseekV4ForCausalLM on the dequantised weights of an official folder.

Besides float32 it runs in a second, mathematically equal mode: float64 activations and rotary
frequencies computed in float64 (transformers' own are float32 powers, off by a last place in a
third of the pairs). Where the two modes disagree, a choice of expert or entry hangs on rounding.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from dsv4_mlx.testing.checkpoints import dequantized_tensors
from tests.oracle import v4_numpy
from tests.oracle.test_transformers_parity import transformers_model


class Transformers:
    """One checkpoint in transformers, in both modes. Logits are [S, V] of one call each."""

    def __init__(self, folder: Path):
        self.config = json.loads((folder / "config.json").read_text())
        known = {k: v for k, v in self.config.items() if k != "quantization_config"}
        known.pop("expert_dtype", None)
        weights = dequantized_tensors(folder)
        self.single = _eager(transformers_model(known, weights))
        self.double = _eager(transformers_model(known, weights)).double()
        self._set_exact_frequencies(self.double)

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Float32, one call without a cache."""
        return _logits(self.single, tokens)

    def precise_logits(self, tokens: np.ndarray) -> np.ndarray:
        """The same mathematics in float64, rounded to float32 at the end."""
        return _logits(self.double, tokens)

    def chunked_logits(self, tokens: np.ndarray, size: int) -> np.ndarray:
        """Float32, calls of `size` tokens with transformers' own cache."""
        past, parts = None, []
        with torch.no_grad():
            for start in range(0, len(tokens), size):
                part = torch.tensor(tokens[None, start : start + size])
                output = self.single(part, past_key_values=past, use_cache=True)
                past = output.past_key_values
                parts.append(output.logits[0].numpy())
        return np.concatenate(parts)

    def _set_exact_frequencies(self, model: PreTrainedModel) -> None:
        for module in model.modules():
            for label, ratio in (("main", 0), ("compress", v4_numpy.CSA_RATE)):
                if hasattr(module, f"{label}_inv_freq"):
                    frequencies = v4_numpy._layer_frequencies(self.config, ratio)
                    setattr(module, f"{label}_inv_freq", torch.tensor(frequencies))


def _eager(model: PreTrainedModel) -> PreTrainedModel:
    model.set_experts_implementation("eager")  # the grouped product knows no float64
    return model


def _logits(model: PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens[None]), use_cache=False).logits[0].float().numpy()


def versions() -> str:
    """What the numbers were made with."""
    import transformers

    return f"transformers {transformers.__version__}, torch {torch.__version__}"
