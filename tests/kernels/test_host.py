"""The plan that runs texts on this CPU: what it replaces, and that a fault in a text fails."""

from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from metal_kernels import sources
from metal_kernels.registry import kernels
from tests.kernels import host
from tests.kernels.host import host_plan
from tests.metalhost import MetalHostError

pytestmark = pytest.mark.needs("metalhost")

TEXT = "dense_matvec"


def test_only_the_built_object_is_replaced_and_only_for_a_while() -> None:
    own = sources.built
    with host_plan() as plan:
        assert sources.built is not own
        assert plan.backend == "metal"
        assert plan.chosen["dense_matvec"] == "metal"
    assert sources.built is own
    with pytest.raises(ZeroDivisionError), host_plan():
        raise ZeroDivisionError
    assert sources.built is own


@pytest.mark.parametrize("mode", ["checked", "fast"])
@pytest.mark.parametrize("order", ["ascending", "descending", 3])
def test_every_mode_and_order_gives_the_same_product(mode: str, order: str | int) -> None:
    x, weight = mx.arange(22.0).reshape(2, 11), mx.arange(33.0).reshape(3, 11)
    with host_plan(mode, order) as plan:
        assert mx.array_equal(plan.ops.dense_matvec(x, weight), x @ weight.T)


Edit = Callable[[str, str], None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """`edit(old, new)` puts dense_matvec's text with that change in its place."""

    def change(old: str, new: str) -> None:
        text = sources.path("metal", TEXT).read_text(encoding="utf-8")
        assert old in text
        broken = tmp_path / f"{TEXT}.metal"
        broken.write_text(text.replace(old, new), encoding="utf-8")
        monkeypatch.setattr(sources, "path", lambda backend, name: broken)
        host._built.cache_clear()

    yield change
    host._built.cache_clear()


def refused(match: str) -> None:
    case = kernels()[TEXT].cases[0]
    with host_plan() as plan, pytest.raises(MetalHostError, match=match):
        plan.ops.dense_matvec(**case.make(0))


def test_a_missing_barrier_is_an_error_with_its_line(edit: Edit) -> None:
    edit("threadgroup_barrier(mem_flags::mem_threadgroup);", "")
    refused(r"body:\d+ .*partial_sums")


def test_a_function_without_its_quality_is_an_error(edit: Edit) -> None:
    edit(sources.BODY, f"\nfloat bare(float x) {{ return log(x); }}\n{sources.BODY}")
    refused(r"header:\d+: call to 'log' is ambiguous")


def test_a_character_beyond_ascii_is_an_error(edit: Edit) -> None:
    edit(sources.BODY, f"\n// 2 × 3\n{sources.BODY}")
    refused("'×' is not ASCII")
