"""Every planted mistake is found, with kind and line; every correct text stays silent."""

import mlx.core as mx
import pytest

from tests.metalhost import MetalHostError, report
from tests.metalhost.tests import planted, refused
from tests.metalhost.tests.support import launch

pytestmark = pytest.mark.needs("metalhost")


def attempt(case: planted.Case, order: str | int = "ascending") -> mx.array:
    size, dtype = case.output
    inputs = {"a": mx.arange(64, dtype=mx.float32)}
    if "a_small" in case.body:
        inputs["a_small"] = mx.zeros((3,))
    return launch(
        case.body, inputs, {"out": ((size,), getattr(mx, dtype))}, threads=case.threads,
        group=case.group, header=case.header, order=order, **case.options,
    )[0]  # fmt: skip


def named(case: planted.Case) -> str:
    return case.name.replace(" ", "-")


@pytest.mark.parametrize("case", [*planted.RUN_TIME, *refused.REFUSED], ids=named)
def test_a_mistake_is_found(case):
    with pytest.raises(MetalHostError) as caught:
        attempt(case)
    assert (caught.value.kind, caught.value.line) == (case.kind, case.line), str(caught.value)
    words = ("__", "mh_", "/tmp", "_ZZ")
    assert "\n" not in str(caught.value) and not any(w in str(caught.value) for w in words)


@pytest.mark.parametrize("case", planted.CORRECT, ids=named)
def test_a_correct_text_stays_silent_in_every_order(case):
    expected = attempt(case)
    for order in ("descending", 1, 2, 3):
        assert mx.array_equal(attempt(case, order), expected)


@pytest.mark.parametrize("case", planted.RUN_TIME, ids=named)
def test_a_mistake_is_found_in_any_order(case):
    for seed in ("descending", 1, 2, 3):
        with pytest.raises(MetalHostError) as caught:
            attempt(case, seed)
        assert caught.value.kind == case.kind, str(caught.value)


def test_every_kind_of_error_is_planted_or_tested_elsewhere():
    elsewhere = {"none", "threadgroup overrun", "endless", "unsupported"}
    assert {case.kind for case in planted.RUN_TIME} | elsewhere == set(report.KINDS)


def test_names_are_unique():
    cases = [*planted.RUN_TIME, *refused.REFUSED, *planted.CORRECT]
    assert len({case.name for case in cases}) == len(cases) >= 60
