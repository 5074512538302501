"""Several tokens in one call have the bits of as many calls, of whole models on the Metal texts.

What is left of MLX in such a call (embedding, concatenations, slices) moves numbers and adds none.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.cache import fork
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.compiled import CompiledStep
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels.registry import KernelPlan
from metal_kernels.variants import recording
from tests.engine.drafting import ScriptedDrafts, right_then_wrong
from tests.engine.small_models import on as continued
from tests.kernels.host import host_plan, launched
from tests.model import running

pytestmark = pytest.mark.needs("metalhost")

MOST = 8


@pytest.fixture
def exact() -> Iterator[KernelPlan]:
    with host_plan("fast", exact_rows=MOST) as plan:
        yield plan


def on(plan: KernelPlan, folder: Path, numerics: Numerics) -> Model:
    return load_model(
        open_checkpoint(folder), dtype=mx.bfloat16, numerics=numerics, backend="cpu", kernels=plan
    )


def kept(cache: list[Any]) -> dict[str, np.ndarray]:
    """What a timeline keeps, by layer and name, as far as it is seen."""
    return {
        f"{number}.{name}": np.array(array.astype(mx.float32))
        for number, layer in enumerate(cache)
        for row in layer.rows
        for name, array in row.arrays().items()
    }


def assert_same_bits(model: Model, reference: Model, before: int, n: int) -> list[str]:
    """n tokens after `before` others, at once and one by one; the texts that were launched."""
    ids = np.random.default_rng(0).integers(2, model.config.vocab_size, before + n)
    cache = reference.make_cache()
    reference.last_logits(mx.array(ids[None, :before]), cache)
    together, single = fork(cache), fork(cache)
    with launched() as texts:
        block = np.array(model(mx.array(ids[None, before:]), together))[0]
    for row, token in enumerate(ids[before:]):
        alone = np.array(model(mx.array([[int(token)]]), single))[0, 0]
        np.testing.assert_array_equal(block[row], alone, err_msg=f"row {row}")
    found, expected = kept(together), kept(single)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    return [one.text for one in texts]


# Windows of 4 and of 128 tokens close inside, and the last call of eight begins to select.
@pytest.mark.parametrize(("before", "n"), [(253, 5), pytest.param(122, 8, marks=pytest.mark.slow)])
def test_a_call_of_several_tokens_has_the_bits_of_single_ones(
    exact: KernelPlan, tmp_path: Path, before: int, n: int
) -> None:
    folder = running.checkpoint_folder("tiny", tmp_path)
    model = on(exact, folder, Numerics.PLAIN)
    texts = assert_same_bits(model, running.load(folder), before, n)
    assert {"packed_matvec", "dense_matvec", "sparse_attention_matrix"} <= set(texts)


def geometry(plan: KernelPlan, n: int) -> dict[str, Any]:
    """Of Flash's products and attention at n rows: text, templates, and grids for each row."""
    D, H, K = 4096, 64, 512
    zeros = mx.zeros  # never evaluated
    attention: dict[str, Any] = {
        "q": zeros((1, n, H, K)), "window": zeros((1, 127 + n, 583), mx.uint8),
        "sinks": zeros((H,)), "cos": zeros((n, 32)), "sin": zeros((n, 32)),
        "first_position": 131_064, "origin": 0, "sliding_window": 128, "official": True,
    }  # fmt: skip
    found: dict[str, Any] = {}
    calls = {
        "packed": lambda: plan.ops.packed_matvec(
            zeros((n, 1, 1024)), zeros((32768, 256), mx.uint32), zeros((32768, 32), mx.uint8),
            bits=8, group_size=32,
        ),
        "dense": lambda: plan.ops.dense_matvec(zeros((n, D)), zeros((256, D), mx.bfloat16)),
        "csa": lambda: plan.ops.sparse_attention(
            **attention, entries=zeros((1, 32768, 583), mx.uint8),
            selected=zeros((1, n, 512), mx.int32), ratio=4,
        ),
        "hca": lambda: plan.ops.sparse_attention(
            **attention, entries=zeros((1, 1024, 583), mx.uint8), ratio=128
        ),
    }  # fmt: skip
    for name, run in calls.items():
        with recording() as seen:
            run()
        for variant, one in seen.items():
            template = {k: v for k, v in variant.template if k != "ROWS"}
            x = one.grid[0] // (1 if name in ("packed", "dense") else n)
            numbers = {k: v.item() for k, v in one.numbers.items() if k not in _COUNTS}
            found[f"{name} {variant.text}"] = (template, x, one.threadgroup, numbers)
            if name in ("csa", "hca"):
                found[f"{name} {variant.text} y"] = one.grid[1]
    return found


# Numbers of a call that say how many rows it has, or where its first is.
_COUNTS = ("results", "first_position", "origin")


def test_launches_of_one_to_eight_rows_differ_in_the_count_of_rows_alone(exact: KernelPlan) -> None:
    one = geometry(exact, 1)
    assert len(one) == 10
    for n in range(2, MOST + 1):
        assert geometry(exact, n) == one, f"{n} rows"


@pytest.mark.slow
def test_a_reply_by_blocks_has_the_bits_of_replayed_tokens(
    exact: KernelPlan, tmp_path: Path
) -> None:
    """What sessions run on a GPU: a plain token by a graph, a token and its drafts by one call."""
    folder = running.checkpoint_folder("tiny", tmp_path)
    model = on(exact, folder, Numerics.PLAIN)
    trunk = Engine(running.load(folder)).session()
    trunk.sync([int(one) for one in np.random.default_rng(0).integers(2, 500, 252)])
    text: list[int] = []
    drafts = ScriptedDrafts(lambda tokens, count: right_then_wrong(text, 512)(tokens, count))
    found = []
    mx.disable_compile()
    try:
        for options in ({}, {"drafts": drafts, "draft_demanded": True}):
            engine = Engine(model, compiled=True, **options)
            session = continued(engine, trunk)
            reply = list(session.stream(9, temperature=0.7, seed=1, stop_ids=()))
            text = list(session.tokens)
            found.append((reply, kept(session._timeline.cache)))
            step = engine._step
            assert isinstance(step, CompiledStep) and (options or step.traces > 0)
    finally:
        mx.enable_compile()
    assert found[0][0] == found[1][0]
    assert set(found[0][1]) == set(found[1][1])
    for name, array in found[0][1].items():
        np.testing.assert_array_equal(found[1][1][name], array, err_msg=name)
    assert session.draft_use is not None and session.draft_use.accepted > 0
