"""A whole model with Engram on the Metal texts, and its graph as data for GPUs."""

import numpy as np
import pytest

from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.spellings import config_of
from dsv4_mlx.testing.checkpoints import LONG
from dsv4_mlx.tracing import decode_graph
from tests.kernels.host import host_plan
from tests.model import engrams, running, small

CLOSE = 1e-4
SIZES = [5, 1]


@pytest.mark.slow
@pytest.mark.needs("metalhost")
def test_prefill_and_decode() -> None:
    tensors = engrams.weights()
    reference = engrams.model(tensors)
    tokens = small.TOKENS[: sum(SIZES)]
    with host_plan("fast") as plan:
        ours = Model(config_of(engrams.CONFIG), Numerics.PLAIN, plan=plan)
        ours.load_weights(list(small.parameters(tensors).items()), strict=True)
        for engram in ours.engrams().values():
            engram.use_token_map(engrams.TOKEN_MAP)
        assert set(ours.kernel_plan().values()) == {plan.backend, "mlx", "resident"}
        found = running.feed(ours, ours.make_cache(), running.pieces(tokens, SIZES))
    expected = running.feed(reference, reference.make_cache(), running.pieces(tokens, SIZES))
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("backend", ["metal", "cuda"])
def test_a_token_is_traced_without_values(backend: str) -> None:
    """V4.1's tables, 200 GB, in memory of a graph that nobody computes."""
    facts = EngramConfig((1,), 99092, 16_000_000)
    config = LONG.replace(engram=facts, vocab_size=129280)
    nodes = decode_graph(config, backend=backend, context=512)
    texts = [str(node.get("arguments")) for node in nodes if node["type"] == "primitive"]
    for name in ("engram_rows", "engram_gate"):
        assert sum(name in text for text in texts) == 1
