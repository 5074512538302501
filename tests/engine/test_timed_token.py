"""The time of a token, by a clock that a model moves, and what is said of it."""

from typing import Any

import mlx.core as mx
import pytest

from dsv4_mlx.engine.timed_token import residency_note, token_seconds
from dsv4_mlx.release.config import PRO
from dsv4_mlx.scripted.fake import FakeModel
from dsv4_mlx.sizing.machines import GIB
from tests.engine.sessions import engine


class Slow(FakeModel):
    """Takes a minute for its first two calls, while kernels are compiled, and then `seconds`."""

    def __init__(self, seconds: float = 1.0, backend: str = "metal") -> None:
        super().__init__()
        self.now, self._seconds, self._backend = 0.0, seconds, backend

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        self.now += 60 if len(self.calls) < 2 else self._seconds
        return super().__call__(tokens, cache)

    def kernel_plan(self) -> dict[str, str]:
        return {"backend": self._backend}

    def clock(self) -> float:
        return self.now


def test_a_token_is_timed_after_those_that_compile() -> None:
    model = Slow()
    assert token_seconds(engine(model), 1, clock=model.clock) == pytest.approx(1, abs=0.51)
    assert len(model.calls) >= 4


@pytest.mark.parametrize(
    ("seconds", "backend", "is_told"),
    [(0.1, "metal", False), (7.0, "metal", True), (7.0, "cpu", False)],
)
def test_only_a_token_of_metal_that_takes_far_too_long_is_told(
    seconds: float, backend: str, is_told: bool
) -> None:
    model = Slow(seconds, backend)
    running = engine(model)
    running.config = PRO
    said = residency_note(running, 400 * GIB, "Apple M3 Ultra", macs=2, clock=model.clock)
    assert bool(said) == is_told
    assert ("iogpu.wired_limit_mb=411648` on both Macs" in said) == is_told
    assert bool(model.calls) == (backend == "metal")
