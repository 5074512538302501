"""mlx-vlm's graph: Metal answers are put back, compiled regions count as fused."""

import sys
from importlib.util import find_spec

import mlx.core as mx
import pytest

from benchmarks import counting, mlx_vlm_graph
from dsv4_mlx.testing.checkpoints import TINY512
from tests.benchmarks.graphs import traced


def test_a_compiled_region_is_one_node_that_knows_its_launches() -> None:
    @mlx_vlm_graph.compiled(shapeless=True)
    def normalised(x: mx.array, scale: float) -> tuple[mx.array, mx.array]:
        weights = mx.exp(x) * scale
        total = weights.sum(-1, keepdims=True)
        return weights / total, total

    graph = traced(lambda x: list(normalised(mx.sin(x), 2.0)), mx.zeros((4, 8)))
    found = counting.counted(graph)
    # exp, times and division are two kernels around the sum that separates them; fused they could
    # be one, and the count is in favour of the program.
    assert [(one.name, one.launches) for one in found] == [("Sin", 1), ("mlx_Compiled", 2)]
    outputs = next(item["outputs"] for item in graph if item["type"] == "outputs")
    assert [shape for _, shape, _ in outputs] == [(4, 8), (4, 1)]


def test_metal_and_compile_are_put_back() -> None:
    before = (mx.metal.is_available, mx.default_device, mx.compile, mx.eval)
    with pytest.raises(RuntimeError), mlx_vlm_graph.as_on_a_mac():
        assert mx.metal.is_available() and mx.default_device() == mx.gpu
        raise RuntimeError
    assert (mx.metal.is_available, mx.default_device, mx.compile, mx.eval) == before


@pytest.mark.skipif(find_spec("mlx_vlm") is None, reason="mlx_vlm not installed")
def test_its_own_kernels_and_no_others_are_custom() -> None:
    graph = mlx_vlm_graph.decode_graph(TINY512, context=512)
    found = counting.counted(graph)
    names = counting.by_name(found)
    assert names["hc_sinkhorn_collapse"] == 2 * TINY512.num_hidden_layers
    assert names["GatherQMM"] > 0 and names["QuantizedMatmul"] > 0
    assert "mlx_vlm" not in sys.modules
