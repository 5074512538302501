"""What is refused without a compiler's help, and what is refused on demand."""

import mlx.core as mx
import pytest

from tests.metalhost import MetalHostError, checking
from tests.metalhost.tests.support import launch

pytestmark = pytest.mark.needs("metalhost")

ONE = {"out": ((1,), mx.float32)}


def refusal(source: str, inputs: dict | None = None, **options) -> MetalHostError:
    with pytest.raises(MetalHostError) as caught:
        launch(source, inputs, ONE, threads=1, **options)
    assert caught.value.kind == "compile"
    return caught.value


def test_a_character_beyond_ascii_is_refused_even_in_a_comment():
    error = refusal("out[0] = 1;\n// 2 × 3")
    assert error.line == 2
    assert str(error) == (
        "compile: body:2: '×' is not ASCII, and MLX hands texts to Metal as ASCII"
    )
    error = refusal("out[0] = f();", header="// naïve\nfloat f() { return 1; }\n")
    assert error.line is None and "header:1: 'ï'" in str(error)


def many_inputs(count: int) -> tuple[str, dict[str, mx.array]]:
    inputs = {f"a{n}": mx.array([float(n)]) for n in range(count)}
    return f"out[0] = {' + '.join(f'{name}[0]' for name in inputs)};", inputs


def test_a_kernel_gets_31_buffers():
    assert launch(*many_inputs(30), ONE, threads=1)[0].item() == sum(range(30))


def test_more_buffers_are_refused():
    assert "32 buffers" in str(refusal(*many_inputs(31)))


def test_shapes_are_buffers_too():
    source, inputs = many_inputs(30)
    assert "32 buffers" in str(refusal(source + " out[0] += a0_shape[0];", inputs))


A = {"a": mx.array([2.0])}
BARE = ["log(a[0])", "max(a[0], 2.0f)", "clamp(a[0], 2.0f, 3.0f)", "exp(float2(a[0])).x",
        "pow(a[0], a[0])", "metal::log(a[0]) + sqrt(a[0])"]  # fmt: skip
NAMED = "precise::log(a[0]) + fast::max(a[0], 2.0f) + max(1, 2) + precise::exp(float2(0)).x"


@pytest.mark.parametrize("call", BARE)
def test_a_call_without_a_quality_is_refused_on_demand(call):
    assert launch(f"out[0] = {call};", A, ONE, threads=1)
    with pytest.raises(MetalHostError, match=r"body:1: call to '\w+' is ambiguous"):
        launch(f"out[0] = {call};", A, ONE, threads=1, qualities=True)


def test_a_call_with_a_quality_or_of_integers_is_not():
    (out,) = launch(f"out[0] = {NAMED} + abs(a[0]) + floor(a[0]);", A, ONE, threads=1,
                    qualities=True)  # fmt: skip
    assert out.item() == pytest.approx(0.6931472 + 2 + 2 + 1 + 2 + 2)


def test_the_demand_ends_with_its_block():
    with checking(qualities=True):
        pass
    assert launch("out[0] = log(1.0f);", {}, ONE, threads=1)[0].item() == 0
