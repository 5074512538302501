"""The table of threadgroup sizes: halving an entry is one line, and every text then still works."""

from collections.abc import Callable

import mlx.core as mx
import pytest

from metal_kernels import expert_matmul
from metal_kernels.contract import Case
from metal_kernels.registry import kernels
from metal_kernels.shared.selection import exact_top_k
from metal_kernels.shared.threadgroups import MOST_THREADS
from tests.kernels.compare import assert_equals_reference
from tests.kernels.host import host_plan, launched
from tests.kernels.selections import selected
from tests.kernels.test_index_topk import arguments

pytestmark = pytest.mark.needs("metalhost")


def case(kernel: str, name: str) -> Callable[[], None]:
    """A declared case or size, which must equal the reference."""

    def run() -> None:
        own = kernels()[kernel]
        found = next(c for c in (*own.cases, *(s.case for s in own.sizes)) if c.id == name)
        with host_plan("fast") as plan:
            assert_equals_reference(own, getattr(plan.ops, kernel), found)

    return run


def selection(length: int) -> Callable[[], None]:
    def run() -> None:
        scores = mx.round(50 * mx.random.normal((1, 1, length), key=mx.random.key(1)))
        with host_plan("fast"):
            found = selected("metal", scores, 300)
        assert mx.array_equal(found, exact_top_k(scores, 300))

    return run


def many_scores() -> None:
    """More than FEW_SCORES, of few bits."""
    made = Case("many-scores", lambda seed: arguments(T=5000, S=4, H=4, k=40))
    with host_plan("fast") as plan:
        assert_equals_reference(kernels()["index_topk"], plan.ops.index_topk, made)


def many_experts() -> None:
    """More than half of the threads that find their blocks, fewer than all."""
    made = expert_matmul._case("many-experts", 9, 200, 64, 8, k=2)
    with host_plan("fast") as plan:
        assert_equals_reference(kernels()["expert_matmul"], plan.ops.expert_matmul, made)


# Calls in which a text has as many threads as the table allows.
LARGEST: dict[str, tuple[Callable[[], None], ...]] = {
    "compress": (case("compress", "hca"), case("compress", "flash-hca-decode")),
    "hc_collapse": (case("hc_pre", "flash-decode"), case("hc_post_pre", "flash-decode")),
    "hc_head": (case("hc_head", "flash-decode"),),
    "index_select": (selection(4096), selection(16_384), selection(40_000)),
    "expert_blocks": (case("expert_matmul", "many-blocks"), many_experts),
    "engram_gate": (case("engram_gate", "wide"),),
    "hc_mix": (case("hc_pre", "odd-sizes"), case("hc_head", "odd-sizes")),
    "hc_post_mix": (case("hc_post_pre", "odd-sizes"),),
    "index_scores": (many_scores,),
    "hc_post": (case("hc_post", "flash-decode"),),
}


@pytest.mark.parametrize("name", MOST_THREADS)
def test_a_text_works_with_half_its_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (1, 2):
        allowed = MOST_THREADS[name] // part
        with monkeypatch.context() as patch, launched() as launches:
            patch.setitem(MOST_THREADS, name, allowed)
            for run in LARGEST[name]:
                run()
        assert max(launch.threads for launch in launches if launch.text == name) == allowed


def test_numbers_are_whole_simdgroups_and_can_be_halved() -> None:
    assert all(threads % 64 == 0 for threads in MOST_THREADS.values())
    assert MOST_THREADS.keys() == LARGEST.keys()
