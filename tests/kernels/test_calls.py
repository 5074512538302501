"""What a launch is given: a call that has been checked, once for all that look the same."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from metal_kernels import registry
from metal_kernels.contract import Call, ContractError, Kernel, on_gpus


def scaled(x: mx.array, rows: mx.array | None = None, *, factor: int, wide: bool) -> None:
    """A reference, whose signature is the op's."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What the launch of `scaled` is given; it is the only kernel of the registry."""
    calls: list[Call] = []
    kernel = Kernel(
        name="scaled",
        summary="",
        reference=scaled,
        inputs={"x": "M D", "rows": "M"},
        outputs={},
        tolerance=0.0,
        launches=on_gpus(calls.append),
        moving=("factor",),
    )
    monkeypatch.setattr(registry, "kernels", lambda: {"scaled": kernel})
    return calls


def op() -> Callable[..., Any]:
    return registry.bind("metal").ops.scaled


def test_a_call_has_arrays_options_and_sizes_however_it_is_written(seen: list[Call]) -> None:
    x, rows = mx.zeros((3, 4)), mx.zeros((3,))
    options, sizes = {"wide": False}, {"M": 3, "D": 4}
    op()(wide=False, rows=rows, factor=5, x=x)
    registry.bind("cuda").ops.scaled(x, rows, factor=5, wide=False)
    op()(x, None, factor=5, wide=False)
    assert [call[:5] for call in seen] == [
        ("scaled", "metal", {"x": x, "rows": rows}, options, sizes),
        ("scaled", "cuda", {"x": x, "rows": rows}, options, sizes),
        ("scaled", "metal", {"x": x}, options, sizes),
    ]
    assert [call.moving for call in seen] == [{"factor": 5}] * 3
    assert [list(call.arrays) for call in seen] == [["x", "rows"], ["x", "rows"], ["x"]]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, tuple[int, ...]]]:
    """The shapes that were compared with the contract."""
    shapes: list[dict[str, tuple[int, ...]]] = []
    own = Kernel.check
    monkeypatch.setattr(
        Kernel, "check", lambda self, given: shapes.append(given) or own(self, given)
    )
    return shapes


def test_shapes_are_checked_once(seen: list[Call], checked: list[dict]) -> None:
    scaled = op()
    for factor, shape in enumerate([(3, 4), (3, 4), (4, 3), (3, 4)]):
        scaled(mx.zeros(shape), factor=factor, wide=True)
    assert checked == [{"x": (3, 4)}, {"x": (4, 3)}]
    assert [call.sizes for call in seen] == [
        {"M": 3, "D": 4}, {"M": 3, "D": 4}, {"M": 4, "D": 3}, {"M": 3, "D": 4},
    ]  # fmt: skip


def test_shapes_that_disagree_are_refused_each_time(seen: list[Call]) -> None:
    scaled, x = op(), mx.zeros((3, 4))
    scaled(x, mx.zeros((3,)), factor=1, wide=True)
    for _ in range(2):
        with pytest.raises(ContractError, match=r"^scaled: expected M = 3 in rows \[M\]"):
            scaled(x, mx.zeros((4,)), factor=1, wide=True)
    assert len(seen) == 1


def test_few_shapes_are_remembered(
    seen: list[Call], checked: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context that grows does not fill the memory with its lengths."""
    monkeypatch.setattr(registry, "_VERDICTS", 2)
    scaled = op()
    for length in (1, 2, 3, 3, 1):
        scaled(mx.zeros((length, 1)), factor=1, wide=True)
    assert [shapes["x"][0] for shapes in checked] == [1, 2, 3, 1]


def test_what_is_kept_is_made_once_for_calls_that_look_alike(seen: list[Call]) -> None:
    """Also for numbers that are equal but of other types, which a text reads as another one."""
    made: list[Call] = []

    def length(call: Call) -> int:
        made.append(call)
        return call.sizes["M"]

    scaled, x = op(), mx.zeros((3, 4))
    for factor, given, wide in (
        (1, x, True), (2, x, True), (2, x, False), (2, mx.zeros((2, 4)), True),
        (2, x.astype(mx.bfloat16), True), (3, x, 1), (3, x, True),
    ):  # fmt: skip
        scaled(given, factor=factor, wide=wide)
    assert [call.keep(length) for call in seen] == [3, 3, 3, 2, 3, 3, 3]
    assert [(call.sizes["M"], call.options["wide"]) for call in made] == [
        (3, True), (3, False), (2, True), (3, True), (3, 1),
    ]  # fmt: skip
    assert all(call.moving == {} for call in made)


X = mx.zeros((1, 1))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((), {"factor": 1, "wide": True}),
        ((X,), {"factor": 1}),
        ((X, None, 1), {"factor": 1, "wide": True}),
        ((X,), {"factor": 1, "wide": True, "x": X}),
        ((X,), {"factor": 1, "wide": True, "width": 1}),
    ],
    ids=["no-array", "no-option", "one-too-many", "one-twice", "misspelt"],
)
def test_arguments_that_the_reference_does_not_take_are_python_errors(
    given: tuple[Any, ...], named: dict[str, Any], seen: list[Call]
) -> None:
    scaled = op()
    scaled(X, None, factor=1, wide=True)
    with pytest.raises(TypeError, match="argument"):
        scaled(*given, **named)
    assert len(seen) == 1
