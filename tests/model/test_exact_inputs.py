"""Which products of the official numerics begin with bfloat16 values, and so lose nothing by TF32.

A product with both sides in bfloat16 is exact in TF32, and in bfloat16 itself but for its result.
The others begin with float32 values: whoever multiplies them narrow changes numbers.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.loading import load_model
from dsv4_mlx.model.layers import ExpertsLinear, GroupedLinear, Joined, Linear
from dsv4_mlx.model.router import HashRouter, TopKRouter
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.model import running

# By the layer that multiplies; of layers that are one product, the first.
EXACT = {"q_b_proj", "o_a_proj"}
FLOAT32 = {
    "self_attn.q_a_proj", "compressor.kv_proj", "o_b_proj", "mlp.gate", "mlp.experts.gate_up_proj",
    "mlp.experts.down_proj", "shared_experts.gate_proj", "shared_experts.down_proj", "lm_head",
}  # fmt: skip
TOKENS = 150
MULTIPLIES = {
    Linear: ("__call__",),
    GroupedLinear: ("__call__",),
    ExpertsLinear: ("gathered", "chosen", "in_order", "sorted"),
    TopKRouter: ("__call__",),
    HashRouter: ("__call__",),
}


def exact(x: mx.array) -> bool:
    """Whether every value is one of bfloat16."""
    wide = x.astype(mx.float32)
    return bool((wide.astype(mx.bfloat16).astype(mx.float32) == wide).all())


def inputs_seen(model: Model, patch: pytest.MonkeyPatch) -> dict[str, list[bool]]:
    """Whether the input of each product is exact, by layer, while `model` reads and decodes."""
    names = {id(module): name for name, module in model.named_modules()}
    seen: dict[str, list[bool]] = defaultdict(list)

    def watch(owner: type, method: str, named: Callable[[Any], str | None]) -> None:
        own = getattr(owner, method)

        def watched(self: Any, x: mx.array, *rest: Any) -> Any:
            if name := named(self):
                seen[name].append(exact(x))
            return own(self, x, *rest)

        patch.setattr(owner, method, watched)

    for owner, methods in MULTIPLIES.items():
        for method in methods:
            watch(owner, method, lambda layer: names.get(id(layer)))
    watch(Joined, "__call__", lambda joined: names[id(joined._layers()[0])])
    tokens = np.random.default_rng(0).integers(3, model.config.vocab_size, TOKENS)
    cache = model.make_cache()
    for part in (tokens[:-2], tokens[-2:-1], tokens[-1:]):
        mx.eval(model.last_logits(mx.array(part)[None], cache))
    return dict(seen)


def kinds(names: Iterable[str]) -> set[str]:
    """The names of this page that these layers end in."""
    return {next(kind for kind in EXACT | FLOAT32 if name.endswith(kind)) for name in names}


@pytest.mark.parametrize("name", ["nano", "tiny512"])
def test_two_kinds_of_products_begin_with_bfloat16_values(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(open_checkpoint(running.checkpoint_folder(name, tmp_path)), backend="cpu")
    seen = inputs_seen(model, monkeypatch)
    always = {layer for layer, verdicts in seen.items() if all(verdicts)}
    never = {layer for layer, verdicts in seen.items() if not any(verdicts)}
    assert kinds(always) == EXACT and kinds(never) == FLOAT32
    assert always | never == set(seen)


def test_float32_values_are_told_from_those_of_bfloat16() -> None:
    assert exact(mx.array([1.0, 0.5, -3.0])) and not exact(mx.array([1.0, 1.001]))
