"""One token by a replayed graph: the model's own tokens, and few graphs."""

from collections.abc import Iterator

import mlx.core as mx
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx import tracing
from dsv4_mlx.model.compiled import CompiledStep
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.unloaded import cache_after
from dsv4_mlx.warm_up import shortened
from metal_kernels.variants import recording
from tests.model import running

TOKEN = mx.array([[5]], mx.int32)
SHORT = shortened(FLASH)
"""Layers of every kind."""


@pytest.fixture
def taken_apart() -> Iterator[None]:
    """What `mx.compile` is given runs as it is, without a compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def assert_same_tokens(prompt: int, count: int) -> CompiledStep:
    """Greedy tokens after a prompt, of the model and of its step, on forks of one timeline."""
    model = running.load(running.NANO)
    own = model.make_cache()
    ids = mx.array([[7 * i % 500 + 3 for i in range(prompt)]])
    token = model.last_logits(ids, own).argmax(-1).reshape(1, 1)
    mx.eval(token, caches.evaluated(own))
    other, step = caches.fork(own), CompiledStep(model)
    first = second = token
    for number in range(count):
        first = model.last_logits(first, own).argmax(-1).reshape(1, 1)
        second = step.last_logits(second, other).argmax(-1).reshape(1, 1)
        mx.eval(first, second, caches.evaluated(own), caches.evaluated(other))
        assert first.item() == second.item(), f"token {number}"
    assert [layer.offset for layer in other] == [layer.offset for layer in own]
    return step


def test_tokens_are_the_models_own(taken_apart: None) -> None:
    """Over windows that close, and the ends of both rings; from position 120 on."""
    assert_same_tokens(120, 18)


def test_what_is_drafted_from_a_token_is_the_models_own(taken_apart: None) -> None:
    """The streams, of a graph beside the one that gives logits alone."""
    model = running.load(running.NANO)
    own = model.make_cache()
    mx.eval(model.last_logits(mx.array([[7 * i % 500 + 3 for i in range(130)]]), own))
    other, third, step = caches.fork(own), caches.fork(own), CompiledStep(model)
    expected = model.last_logits_and_features(TOKEN, own)
    found = step.last_logits_and_features(TOKEN, other)
    assert step.traces == 1
    alone = step.last_logits(TOKEN, third)
    assert step.traces == 2
    for one, same in zip((*found, alone), (*expected, expected[0]), strict=True):
        assert one.shape == same.shape
        assert mx.allclose(one, same, rtol=1e-4, atol=1e-4).item()
    assert [layer.offset for layer in other] == [layer.offset for layer in own]


def test_three_kinds_of_tokens_are_three_graphs() -> None:
    model, cache = tracing.traced_model(SHORT, "metal", 8190)
    step = CompiledStep(model)
    with recording():
        for _ in range(6):  # both windows close at 8192, one at 8196
            step.last_logits(TOKEN, cache)
        assert step.traces == 3
        step.last_logits(TOKEN, cache)  # after a buffer of 2048 entries had to grow
    assert step.traces == 4


def test_a_replayed_token_meets_the_forms_that_one_built_anew_meets() -> None:
    """So what is compiled while a model loads is what its replies need."""
    model, _ = tracing.traced_model(SHORT, "metal", 300)
    seen = []
    for stepping in (model.compiled_step(), model):
        with recording() as forms:
            for context in (255, 256, 2051, 2052, 8191, 131_072):
                stepping.last_logits(TOKEN, cache_after(model, context, 1))
        seen.append(set(forms))
    replayed, built = seen
    assert replayed <= built


def test_calls_that_fit_no_graph_are_the_models_own() -> None:
    model, cache = tracing.traced_model(SHORT, "metal", 3)
    step = CompiledStep(model)
    with recording():
        step.last_logits(TOKEN, cache)
        step.last_logits(mx.zeros((1, 3), mx.int32), cache)
    assert step.traces == 0
    assert cache[0].offset == 7
