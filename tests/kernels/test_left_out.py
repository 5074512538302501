"""Kernels that a person leaves to their references: how that is asked for, and what a plan says."""

import pytest

from metal_kernels import registry
from metal_kernels.backend import MissingBackend
from metal_kernels.registry import NAMES, UnknownKernel, asked, bind, kernels, plan, words


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSV4_KERNELS", raising=False)


@pytest.mark.parametrize(
    ("text", "backend", "left_out"),
    [
        ("metal,-index_topk", "metal", {"index_topk"}),
        ("-router, -swiglu", "auto", {"router", "swiglu"}),
        ("auto,-router", "auto", {"router"}),
        ("cuda", "cuda", set()),
        ("", "auto", set()),
    ],
)
def test_a_backend_and_kernels_to_leave_out(text: str, backend: str, left_out: set[str]) -> None:
    assert words(text) == (backend, left_out)
    assert asked(text) == (backend, left_out)


def test_what_is_no_kernel_is_named_with_those_that_are() -> None:
    with pytest.raises(UnknownKernel, match=r"expected kernels out of embed_streams, .* 'index'"):
        plan("cpu,-index")
    with pytest.raises(MissingBackend, match="put a - before each kernel"):
        plan("metal,index_topk")


def test_the_variable_says_what_the_call_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_KERNELS", "metal,-router")
    assert asked("auto") == ("metal", {"router"})
    assert asked("metal") == ("metal", {"router"})
    assert asked("cpu") == ("cpu", set())
    assert asked("metal,-swiglu") == ("metal", {"swiglu"})
    monkeypatch.setenv("DSV4_KERNELS", "-router")
    assert asked("cuda") == ("cuda", {"router"})
    assert plan("cpu").left_out == ()  # references run there anyway
    monkeypatch.setenv("DSV4_KERNELS", "-rooter")
    with pytest.raises(UnknownKernel):
        plan("cpu")


@pytest.mark.parametrize("backend", ["metal", "cuda"])
@pytest.mark.parametrize("name", NAMES)
def test_a_plan_runs_the_reference_and_says_so(backend: str, name: str) -> None:
    found = bind(backend, [name])  # type: ignore[arg-type]
    assert found.left_out == (name,)
    assert getattr(found.ops, name) is kernels()[name].reference
    assert found.chosen == {**dict.fromkeys(NAMES, backend), name: "reference"}
    assert registry.bind(backend).left_out == ()  # type: ignore[arg-type]
