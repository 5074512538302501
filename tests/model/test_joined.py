"""Weights of one input as one product: the same numbers, nothing stored twice."""

import copy
import gc
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from dsv4_mlx.model import matmul
from dsv4_mlx.model.layers import Joined, Linear
from dsv4_mlx.model.packed import Matrix, Packed, Packing
from tests.model import running

MODES = {"mxfp4": 4, "mxfp8": 8, "affine": 4}


class Pair(nn.Module):
    """Two linear layers of one input, one of them in a module of its own."""

    def __init__(self, mode: str | None = None):
        super().__init__()
        self.inner = nn.Module()
        self.first, self.inner.second = Linear(64, 24), Linear(64, 40)
        for seed, layer in enumerate((self.first, self.inner.second)):
            layer.weight = mx.random.normal(layer.weight.shape, key=mx.random.key(seed))
        if mode:
            how = {"group_size": 32, "bits": MODES[mode], "mode": mode}
            self.first = self.first.to_quantized(**how)
            self.inner.second = self.inner.second.to_quantized(**how)
        self.joined = Joined(lambda: (self.first, self.inner.second))

    def apart(self, x: mx.array) -> np.ndarray:
        return np.array(mx.concatenate([self.first(x), self.inner.second(x)], axis=-1))


def inputs(*shape: int) -> mx.array:
    return mx.random.normal((*shape, 64), key=mx.random.key(9))


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_joined_equals_apart(mode: str | None, rows: int) -> None:
    pair, x = Pair(mode), inputs(2, rows)
    expected = pair.apart(x)
    np.testing.assert_array_equal(np.array(pair.joined(x)), expected)
    pair.joined.join()
    np.testing.assert_allclose(np.array(pair.joined(x)), expected, atol=1e-5)
    np.testing.assert_allclose(pair.apart(x), expected, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_one_packed_row_is_bit_equal(mode: str) -> None:
    pair, x = Pair(mode), inputs(1, 1)
    expected = pair.apart(x)
    pair.joined.join()
    np.testing.assert_array_equal(np.array(pair.joined(x)), expected)


def test_a_layer_in_the_place_of_another_parts_them(tmp_path: Path) -> None:
    """Each of every layer's joined ones in turn, the module around it too."""
    model = running.load(running.checkpoint_folder("tiny", tmp_path))
    layer = next(one for one in model.layers if one.self_attn.compressor is not None)
    attention, shared = layer.self_attn, layer.mlp.shared_experts
    compression = attention.compressor
    indexer = compression.indexer
    places = [
        (attention, "q_a_proj", attention._q_kv),
        (attention, "q_b_proj", attention._q_index),
        (compression, "kv_proj", compression.raw_rows),
        (compression, "indexer", compression.raw_rows),
        (indexer, "gate_proj", compression.raw_rows),
        (indexer, "q_b_proj", attention._q_index),
        (indexer.scorer, "weights_proj", compression.raw_rows),
        (shared, "up_proj", shared.joined),
    ]
    for owner, name, joined in places:
        joined.join()
        assert joined.matrix is not None
        before = owner[name]
        setattr(owner, name, before)
        assert joined.matrix is not None
        setattr(owner, name, copy.deepcopy(before))
        assert joined.matrix is None, name
        setattr(owner, name, before)


def test_joining_stores_nothing_twice() -> None:
    pair = Pair()
    for layer in (pair.first, pair.inner.second):
        layer.weight = mx.random.normal((4096, 64))
    mx.eval(pair.parameters())
    mx.synchronize()
    before = mx.get_active_memory()
    pair.joined.join()
    mx.eval(pair.parameters())
    assert mx.get_active_memory() <= before * 1.01


def test_a_loaded_model_is_joined_and_holds_its_weights_once() -> None:
    gc.collect()
    mx.synchronize()
    before = mx.get_active_memory()
    model = running.load(running.NANO)
    gc.collect()
    mx.synchronize()
    held = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    assert mx.get_active_memory() - before <= held * 1.01
    assert all(joined.matrix is not None for joined in model.joined())


def test_a_weight_replaced_later_counts() -> None:
    pair, x = Pair(), inputs(1, 3)
    pair.joined.join()
    pair.first.weight = 2 * pair.first.weight
    np.testing.assert_allclose(np.array(pair.joined(x)), pair.apart(x), atol=1e-5)


def test_scales_replaced_later_count() -> None:
    pair, x = Pair("mxfp8"), inputs(1, 3)
    pair.joined.join()
    pair.first.scales = pair.first.scales + 1
    np.testing.assert_array_equal(np.array(pair.joined(x)), pair.apart(x))


def test_layers_quantized_later_count() -> None:
    pair, x = Pair(), inputs(1, 3)
    pair.joined.join()
    nn.quantize(pair, group_size=32, bits=8, mode="mxfp8")
    np.testing.assert_array_equal(np.array(pair.joined(x)), pair.apart(x))


def test_weights_replaced_later_leave_nothing_behind() -> None:
    pair, x = Pair(), inputs(1, 1)
    layers = (pair.first, pair.inner.second)
    for layer in layers:
        layer.weight = mx.random.normal((4096, 64))
    pair.joined.join()
    mx.eval(pair.parameters())
    before = mx.get_active_memory()
    for layer in layers:  # as an optimiser's step does
        layer.weight = 0.5 * layer.weight
    mx.eval(pair.joined(x), pair.parameters())
    assert mx.get_active_memory() <= before * 1.05


def test_different_formats_stay_apart() -> None:
    pair = Pair()
    pair.first = pair.first.to_quantized(group_size=32, bits=8, mode="mxfp8")
    pair.joined.join()
    assert pair.joined.matrix is None
    x = inputs(1, 2)
    np.testing.assert_array_equal(np.array(pair.joined(x)), pair.apart(x))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("each", [1, 3])
def test_products_for_a_gpu_equal_those_for_the_cpu(packed: bool, each: int) -> None:
    """Their primitives run on the CPU too."""
    weight = mx.random.normal((4, 32, 64), key=mx.random.key(0))
    matrices: Matrix = weight
    if packed:
        codes, scales = mx.quantize(weight, group_size=32, bits=8, mode="mxfp8")
        matrices = Packed(codes, scales, None, Packing(32, 8, "mxfp8"))
        weight = matrices.unpack()
    experts = mx.array([[0, 3, 1], [2, 2, 0]], mx.uint32)
    x = inputs(2, each)
    rows = mx.broadcast_to(x, (2, 3, 64))
    expected = np.einsum("mki,mkoi->mko", np.array(rows), np.array(weight[experts]))
    found = np.array(matmul.chosen(x, experts, matrices))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    flat = mx.array([0, 0, 1, 3, 3], mx.uint32)
    x = inputs(5)
    expected = np.einsum("ri,roi->ro", np.array(x), np.array(weight[flat]))
    np.testing.assert_allclose(np.array(matmul.in_order(x, flat, matrices)), expected, atol=1e-4)
