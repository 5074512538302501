"""One token by a replayed graph: the model's own tokens, few graphs, few bytecodes."""

from collections import Counter
from collections.abc import Iterator

import mlx.core as mx
import pytest

from benchmarks import host
from dsv4_mlx import cache as caches
from dsv4_mlx import tracing
from dsv4_mlx.model.compiled import CompiledStep
from dsv4_mlx.release.config import FLASH
from metal_kernels.variants import recording
from tests.model import running

MOST = 60_000
TOKEN = mx.array([[5]], mx.int32)


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


def test_a_replayed_token_of_flash_takes_few_bytecodes() -> None:
    """Kernels are stood in for: their calls give zeros of the declared shapes."""
    model, cache = tracing.traced_model(FLASH, "metal", 8193)
    step = CompiledStep(model)
    with recording():
        counts = {}
        for _ in range(4 * 3):
            before, found = step.traces, Counter[str]()
            kind = step._kind(cache[0].rows[0].position)
            with host.bytecodes(found):
                step.last_logits(TOKEN, cache)
            if step.traces == before:
                counts[kind] = sum(found.values())
    assert set(counts) == {((), True), ((4,), True)}
    assert max(counts.values()) <= MOST
    assert step.traces <= 4


def test_calls_that_fit_no_graph_are_the_models_own() -> None:
    model, cache = tracing.traced_model(FLASH, "metal", 3)
    step = CompiledStep(model)
    with recording():
        step.last_logits(TOKEN, cache)
        step.last_logits(mx.zeros((1, 3), mx.int32), cache)
    assert step.traces == 0
    assert cache[0].offset == 7
