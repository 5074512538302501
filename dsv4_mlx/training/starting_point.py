"""What a stage of post-training starts from: the folder of a model, read as parameters again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.loading import load
from dsv4_mlx.model.layers import MatrixLayer
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.training.muon import Parameters

_UNTRAINED = ("tid2eid", "e_score_correction_bias")


@dataclass(frozen=True)
class StartingPoint:
    """A model to train on from: `trained` float32 by our names, `fixed` what no gradient moves."""

    folder: Path
    config: DeepseekV4Config
    tokenizer: Tokenizer
    fingerprint: str
    trained: Parameters
    fixed: Parameters

    @classmethod
    def of(cls, folder: Path) -> StartingPoint:
        """Read a folder in the official format; CheckpointError where it is none."""
        model, tokenizer = load(folder, dtype=mx.float32, numerics=Numerics.PLAIN, backend="cpu")
        every = dense_parameters(model)
        fixed = {name: every.pop(name) for name in list(every) if name.endswith(_UNTRAINED)}
        return cls(folder, model.config, tokenizer, model.weights_fingerprint, every, fixed)


def dense_parameters(model: Model) -> Parameters:
    """Every parameter by our name: matrices unpacked to float32, tables of ids int32."""
    found: Parameters = {}
    packed: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, MatrixLayer):
            matrix = module.matrix()
            dense = matrix if isinstance(matrix, mx.array) else matrix.unpack()
            found[f"{name}.weight"] = dense.astype(mx.float32)
            packed |= {f"{name}.{field}" for field in ("weight", "scales", "biases")}
    rest: Any = tree_flatten(model.parameters())  # type: ignore[no-untyped-call]
    for name, value in rest:
        if name not in packed:
            whole = mx.issubdtype(value.dtype, mx.integer)
            found[name] = value.astype(mx.int32 if whole else mx.float32)
    mx.eval(found)
    return found
