"""Which layer a node belongs to, what it reads, and what a compiled region fuses."""

from types import SimpleNamespace

import mlx.core as mx

from benchmarks import counting
from benchmarks.counting import AFTER, BEFORE
from dsv4_mlx import tracing
from tests.benchmarks.graphs import traced

WEIGHTS = {
    "model.model.embed_tokens.weight": mx.zeros((9, 8)),
    "model.model.layers.0.up.weight": mx.zeros((8, 8)),
    "model.model.layers.1.up.weight": mx.zeros((8, 8)),
    "cache.1.rows.0.window": mx.zeros((1, 4, 8)),
    "model.lm_head.weight": mx.zeros((9, 8)),
}


def two_layers(tokens: mx.array, **w: mx.array) -> list[mx.array]:
    embed, first, second, window, head = (w[name] for name in WEIGHTS)
    x = embed[tokens]
    x = mx.exp(x @ first.T)
    x = x @ second.T + mx.arange(8)
    window[:, 1:2] = x
    return [(x @ head.T).argmax(-1), window]


def test_nodes_belong_to_the_layer_whose_weights_or_cache_they_get() -> None:
    found = counting.counted(traced(two_layers, mx.zeros((1, 1), mx.int32), **WEIGHTS))
    per_layer = counting.by_layer(found)
    # Gather | product, exp | product, arange, its cast, sum, update | product, argmax
    assert dict(per_layer) == {BEFORE: 1, 0: 2, 1: 5, AFTER: 2}


def test_a_constant_belongs_to_the_layer_that_reads_it() -> None:
    found = counting.counted(traced(two_layers, mx.zeros((1, 1), mx.int32), **WEIGHTS))
    assert [one.layer for one in found if one.name == "Arange"] == [1]


def test_reads_go_by_path_through_views_and_updates() -> None:
    def step(tokens: mx.array, **w: mx.array) -> mx.array:
        window = w["cache.1.rows.0.window"]
        window[:, 1:2] = mx.zeros((1, 1, 8))
        return window[:, :3].sum() + w["model.lm_head.weight"].T.sum()

    graph = traced(step, mx.zeros((1, 1), mx.int32), **WEIGHTS)
    found = counting.reads(graph, lambda path, source, node: source.nbytes)
    assert {read.path: read.nbytes for read in found} == {
        "cache.1.rows.0.window": 4 * 8 * 4,
        "model.lm_head.weight": 9 * 8 * 4,
    }


def test_memory_that_is_read_later_is_not_written() -> None:
    def step(buffer: mx.array) -> list[mx.array]:
        before = buffer[:, :2]
        buffer[:, 3:4] = 1.0
        return [buffer, before + 1]

    counts = counting.by_name(counting.counted(traced(step, mx.zeros((1, 4, 8)))))
    assert counts["SliceUpdate"] == 2


def test_memory_that_was_read_earlier_is_written() -> None:
    def step(buffer: mx.array) -> list[mx.array]:
        read = buffer[:, :2] + 1
        buffer[:, 3:4] = read[:, :1]
        return [buffer]

    counts = counting.by_name(counting.counted(traced(step, mx.zeros((1, 4, 8)))))
    assert counts["SliceUpdate"] == 1


def test_a_compiled_region_fuses_elements_and_nothing_else() -> None:
    def region(x: mx.array) -> mx.array:
        scores = mx.exp(mx.minimum(x, 1.0)) * 2
        return scores / (scores.sum(-1, keepdims=True) + 1e-6)

    graph = traced(region, mx.zeros((4, 8)))
    assert counting.fused_launches(graph) == 2
    assert sum(one.launches for one in counting.counted(graph)) == 6


def test_kernel_names_lose_the_types_that_mlx_appends() -> None:
    def named(name: str) -> str:
        return counting.display_name({"name": "CustomKernel", "arguments": [name]})

    assert named("custom_kernel_dsv4_hc_pre_4_256_float_floatc_bfloat16_t_float") == "dsv4_hc_pre"
    assert named("custom_kernel_own__float16_t_3_int_uint32_tc") == "own"


def test_every_array_of_an_object_is_found_once_by_path() -> None:
    shared = mx.zeros((2,))
    holder = SimpleNamespace(parts=[{"weight": shared}, SimpleNamespace(view=shared)], count=3)
    holder.itself = holder
    places = list(tracing.each_array(holder, "model", set()))
    assert [place.path for place in places] == ["model.parts.0.weight", "model.parts.1.view"]
    places[1].put(mx.ones((3,)))
    assert holder.parts[1].view.shape == (3,)


def test_places_that_share_an_array_share_its_input() -> None:
    shared = mx.zeros((2,))
    holder = SimpleNamespace(a=shared, b=shared)

    def step(tokens: mx.array) -> list[mx.array]:
        assert holder.a is holder.b
        return [tokens + holder.a]

    graph = tracing.trace(step, mx.zeros((2,)), model=holder)
    assert list(counting.input_paths(graph).values()) == ["model.a"]


def test_arrays_of_holders_are_inputs_and_not_constants() -> None:
    holder = SimpleNamespace(weight=mx.zeros((1 << 20, 1 << 12)))  # 16 GiB if it existed
    graph = tracing.trace(lambda t: [t @ holder.weight.T], mx.zeros((1, 1 << 12)), model=holder)
    constants = next(item["constants"] for item in graph if item["type"] == "constants")
    assert constants == []
    assert counting.input_paths(graph) == {"B": "model.weight"}
