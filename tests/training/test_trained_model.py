"""The trained form against the model itself: values, gradients, selection, recomputation."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_unflatten

from dsv4_mlx.errors import BackendError
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.training.data.batches import Batch
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.objective import NanoObjective
from dsv4_mlx.training.plan import require_gradients, training_plan
from metal_kernels import registry
from tests.training.small import SMALL as NARROW

SMALL = NARROW.replace(index_n_heads=2, index_topk=4)
# Heads wider than their residual and their share of the output, as nano's are.
WIDE = SMALL.replace(head_dim=96, q_lora_rank=32, o_lora_rank=48)
UNTRAINED = ("tid2eid", "e_score_correction_bias")


def parts(config=SMALL):
    parameters = initial_parameters(config, 0)
    fixed = {name: parameters.pop(name) for name in list(parameters) if name.endswith(UNTRAINED)}
    return parameters, fixed


def batch(rows=2, length=134, seed=1):
    tokens = np.random.default_rng(seed).integers(0, 64, (rows, length + 2)).astype(np.int32)
    return Batch(tokens, np.ones(tokens.shape, np.float32))


def of_reference(parameters, fixed, tokens):
    model = Model(SMALL, numerics=Numerics.PLAIN, backend="cpu")
    model.update(tree_unflatten(list((parameters | fixed).items())))
    return model(tokens)


def gradients(objective, parameters, given):
    (_, extras), found = mx.value_and_grad(objective)(parameters, given)
    return extras, found


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = mx.abs(value).max().item()
        assert mx.abs(found[name] - value).max().item() <= tolerance * size + 1e-7, name


@pytest.mark.parametrize("indexing", ["frozen", "off", "dense", "sparse"])
@pytest.mark.parametrize("config", [SMALL, WIDE], ids=["direct", "absorbed"])
def test_logits_are_the_models(config, indexing):
    parameters, fixed = parts(config)
    selects = indexing in ("frozen", "sparse")
    wide = config if selects else config.replace(index_topk=99)
    objective = NanoObjective(config, fixed | parameters)
    if indexing != "frozen":
        objective.set_indexing(indexing)
    reference = Model(wide, numerics=Numerics.PLAIN, backend="cpu")
    reference.update(tree_unflatten(list((parameters | fixed).items())))
    tokens = mx.array(batch().tokens)
    found, expected = np.array(objective.model(tokens)), np.array(reference(tokens))
    np.testing.assert_allclose(found, expected, atol=2e-4)
    if selects:  # and the selection does leave entries out
        reference = Model(config.replace(index_topk=99), numerics=Numerics.PLAIN, backend="cpu")
        reference.update(tree_unflatten(list((parameters | fixed).items())))
        assert np.abs(np.array(reference(tokens)) - expected).max() > 1e-2


@pytest.mark.parametrize("config", [SMALL, WIDE], ids=["direct", "absorbed"])
def test_gradients_are_the_references(config):
    parameters, fixed = parts(config)
    tokens = mx.array(batch().tokens)
    cotangent = mx.random.normal((*tokens.shape, 64), key=mx.random.key(3))
    wide = config.replace(index_topk=99)
    models = {
        "reference": Model(wide, numerics=Numerics.PLAIN, backend="cpu"),
        "trained": NanoObjective(wide, fixed).model,
    }
    found = {}
    for name, model in models.items():

        def loss(parameters, model=model):
            model.update(tree_unflatten(list((parameters | fixed).items())))
            return (model(tokens) * cotangent).sum()

        found[name] = mx.grad(loss)(parameters)
    assert_close(found["trained"], found["reference"], 2e-4)


@pytest.mark.parametrize("indexing", ["dense", "sparse"])
def test_gradients_are_the_slopes_of_the_loss(indexing):
    parameters, fixed = parts()
    objective = NanoObjective(SMALL, fixed)
    objective.set_indexing(indexing)
    given = batch(rows=1, length=40)
    _, found = gradients(objective, parameters, given)
    assert all(mx.isfinite(g).all().item() for g in found.values())
    names = (
        "model.layers.1.self_attn.q_b_proj.weight",
        "model.layers.1.self_attn.compressor.kv_proj.weight",
        "model.layers.1.self_attn.sinks",
        "model.layers.2.self_attn.compressor.position_bias",
        "model.layers.0.mlp.shared_experts.down_proj.weight",
        "model.layers.2.attn_hc.fn",
        "lm_head.weight",
    )
    for name in names:
        direction = found[name] / mx.sqrt(mx.square(found[name]).sum())
        step = 2e-3 / max(1e-6, mx.abs(direction).max().item()) * 0.1
        slope = 0.0
        for sign in (1, -1):
            moved = parameters | {name: parameters[name] + sign * step * direction}
            _, extras = objective(moved, given)
            value = extras["nll"] + 0.3 * extras["mtp"]
            slope += sign * value.item() / (2 * step)
        size = mx.sqrt(mx.square(found[name]).sum()).item()
        # A choice that flips within the step, and what balance adds, are a few per cent.
        assert slope == pytest.approx(size, rel=0.06, abs=2e-3), name


def test_the_indexers_loss_moves_the_indexer_alone():
    parameters, fixed = parts()
    objective = NanoObjective(SMALL, fixed)
    objective.set_indexing("dense")
    found = mx.grad(lambda p: objective(p, batch())[1]["index"])(parameters)
    moved = {name for name, g in found.items() if mx.abs(g).max().item() > 0}
    indexer = {name for name in parameters if ".indexer." in name}
    assert moved == indexer


def test_the_indexer_learns_where_attention_goes():
    parameters, fixed = parts()
    objective = NanoObjective(SMALL, fixed)
    objective.set_indexing("dense")
    given = batch(rows=2, length=96)
    indexer = {name: value for name, value in parameters.items() if ".indexer." in name}

    def loss(indexer):
        _, extras = objective(parameters | indexer, given)
        return extras["index"], extras["recall"]

    losses, recalls = [], []
    for _ in range(12):
        (value, recalled), found = mx.value_and_grad(loss)(indexer)
        norm = mx.sqrt(sum(mx.square(g).sum() for g in found.values()))
        indexer = {name: w - 0.5 * found[name] / norm for name, w in indexer.items()}
        losses.append(value.item())
        recalls.append(recalled.item())
    assert losses[-1] < 0.7 * losses[0]
    assert recalls[-1] > recalls[0]


@pytest.mark.parametrize("indexing", ["frozen", "off", "sparse"])
def test_recomputed_layers_have_the_same_gradients(indexing):
    parameters, fixed = parts()
    found = []
    for recompute in (False, True):
        objective = NanoObjective(SMALL, fixed, recompute=recompute)
        objective.set_indexing(indexing)
        extras, grads = gradients(objective, parameters, batch(rows=1, length=40))
        found.append((extras, grads))
    for name, value in found[0][0].items():
        assert mx.array_equal(value, found[1][0][name]), name
    for name, value in found[0][1].items():
        assert mx.array_equal(value, found[1][1][name]), name


def test_kernels_are_refused_a_gradient_and_the_plan_says_who_runs():
    plan = training_plan()
    assert set(plan.chosen.values()) == {"reference", "training"}
    assert NanoObjective(SMALL, parts()[1]).model.kernel_plan()["hc_pre"] == "training"
    require_gradients({"backend": plan.backend, **plan.chosen})
    metal = Model(SMALL, numerics=Numerics.PLAIN, plan=registry.bind("metal"))
    with pytest.raises(BackendError, match=r"kernels of metal for .*sparse_attention"):
        require_gradients(metal.kernel_plan())
