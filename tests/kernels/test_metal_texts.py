"""Every declared case of every Metal text, executed and compared with the reference.

The texts run in metalhost's checked mode: a read out of bounds or of memory never written, a race,
or a barrier that some threads miss fails the test, in whatever order the threads run.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from metal_kernels import sources
from metal_kernels.contract import Case, ContractError, Kernel
from metal_kernels.registry import NAMES, bind, kernels
from tests.kernels.host import assert_text_matches

pytestmark = pytest.mark.needs("metalhost")


def shares_a_letter(kernel: Kernel) -> bool:
    letters = [letter for shape in kernel.inputs.values() for letter in {*shape.split()}]
    return len(letters) > len({*letters})


ON_METAL = [kernel for kernel in kernels().values() if "metal" in kernel.launches]
CASES = [
    pytest.param(kernel, case, id=f"{kernel.name}-{case.id}")
    for kernel in ON_METAL
    for case in kernel.cases
]
KERNELS = [pytest.param(kernel, id=kernel.name) for kernel in ON_METAL]
# Where no letter stands in two inputs, no sizes can disagree.
SHARING = [p for p in KERNELS if shares_a_letter(p.values[0])]
ORDERS = ("ascending", "descending", 1)
# Every seed, in one of the orders that take turns; each in the other two is in soak.
SEEDS_AND_ORDERS = [
    pytest.param(seed, order, marks=pytest.mark.soak if (seed + n) % 3 else pytest.mark.slow)
    for seed in range(5)
    for n, order in enumerate(ORDERS)
]
# What Apple's GPUs and compiler may do with numbers, whatever the options.
ARITHMETIC = [pytest.param({way: True}, id=way) for way in ("flushed", "fused")]
# Each is compiled anew: plain are the first cases of a kernel that rounds and of one that adds up.
OTHER_ARITHMETIC = [
    pytest.param(
        kernel,
        case,
        id=f"{kernel.name}-{case.id}",
        marks=[pytest.mark.slow] * (n > 0 or kernel.name not in ("qkv_prepare", "dense_matvec")),
    )
    for kernel in ON_METAL
    for n, case in enumerate(kernel.cases)
]


def test_every_kernel_has_a_metal_text() -> None:
    assert {kernel.name for kernel in ON_METAL} == set(NAMES)
    assert bind("metal").chosen == dict.fromkeys(NAMES, "metal")


@pytest.mark.parametrize(("kernel", "case"), CASES)
def test_text_equals_reference(kernel: Kernel, case: Case) -> None:
    assert_text_matches(kernel, case.make(7), case.id, order=7)


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
@pytest.mark.parametrize(("kernel", "case"), OTHER_ARITHMETIC)
def test_text_equals_reference_in_other_arithmetic(
    kernel: Kernel, case: Case, arithmetic: dict[str, bool]
) -> None:
    """Subnormal numbers are zero; or products and sums are fused."""
    assert_text_matches(kernel, case.make(3), case.id, 3, mode="fast", **arithmetic)


@pytest.mark.parametrize(("seed", "order"), SEEDS_AND_ORDERS)
@pytest.mark.parametrize(("kernel", "case"), CASES)
def test_text_equals_reference_for_every_seed_and_order(
    kernel: Kernel, case: Case, seed: int, order: str | int
) -> None:
    assert_text_matches(kernel, case.make(seed), f"{case.id}, seed {seed}", order)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_wrong_number_of_axes_is_refused_before_anything_is_launched(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launched(*_: object) -> None:
        raise AssertionError("a text was built for arguments outside the contract")

    monkeypatch.setattr(sources, "built", launched)
    op = getattr(bind("metal").ops, kernel.name)
    for name, arguments in wrong_shapes(kernel):
        shape = arguments[name].shape
        with pytest.raises(ContractError) as error:
            op(**arguments)
        assert str(error.value) == (
            f"{kernel.name}: expected {name} as [{kernel.inputs[name]}] but found shape {shape}."
        )


def wrong_shapes(kernel: Kernel) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each array argument once with one axis too many."""
    arguments = kernel.cases[0].make(0)
    for name in kernel.inputs:
        if arguments[name] is not None:
            yield name, {**arguments, name: arguments[name][None]}


@pytest.mark.parametrize("kernel", SHARING)
def test_a_size_that_disagrees_is_refused(kernel: Kernel) -> None:
    """The first letter that two inputs share, made one larger in the second of them."""
    arguments = kernel.cases[0].make(0)
    name, axis = shared_letter(kernel, arguments)
    arguments[name] = mx.repeat(arguments[name], 2, axis=axis)
    letter = kernel.inputs[name].split()[axis]
    with pytest.raises(ContractError, match=rf"^{kernel.name}: expected {letter} = "):
        getattr(bind("metal").ops, kernel.name)(**arguments)


def shared_letter(kernel: Kernel, arguments: dict[str, Any]) -> tuple[str, int]:
    """Input and axis of a letter that an earlier input has bound."""
    bound: set[str] = set()
    for name, shape in kernel.inputs.items():
        if arguments[name] is None:
            continue
        for axis, letter in enumerate(shape.split()):
            if letter in bound:
                return name, axis
        bound |= set(shape.split())
    raise AssertionError(f"{kernel.name}: the inputs of its first case share no size")


def test_every_text_is_launched_by_some_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the launch functions ask for, compared with the files: no text lies beside the tests."""
    files: set[Path] = set()

    def recording(backend: str, name: str, *_: tuple[str, ...]) -> Callable[..., list[mx.array]]:
        files.add(sources.path(backend, name))
        return zeros

    monkeypatch.setattr(sources, "built", recording)
    for kernel in kernels().values():
        for backend in kernel.launches:
            op = getattr(bind(backend).ops, kernel.name)
            for case in kernel.cases:
                op(**case.make(0))
    texts = {*sources.ROOT.glob("*/*.metal"), *sources.ROOT.glob("*/*.cu")}
    assert files == {text for text in texts if text.parent != sources.SHARED}


def test_elements_of_matrices_are_named_by_numbers() -> None:
    """A lane owns two elements of what Metal declares as 64, so an index that is no number may
    read another lane's."""
    places = {
        (text.name, place)
        for text in sources.ROOT.glob("*/*.metal")
        for place in re.findall(r"thread_elements\(\)(\[[^]]*\]|.)", text.read_text("utf-8"))
    }
    assert {name for name, _ in places} == {
        "expert_matmul.metal",
        "index_scores.metal",
        "sparse_attention_matrix.metal",
    }
    assert {place for _, place in places} == {"[0]", "[1]"}


def zeros(*, output_shapes: list, output_dtypes: list, **_: object) -> list[mx.array]:
    """Outputs of a launch that does nothing."""
    return [mx.zeros(s, d) for s, d in zip(output_shapes, output_dtypes, strict=True)]
