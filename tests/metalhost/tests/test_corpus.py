"""Unmodified kernels of mlx-lm 0.32.2 against mlx-lm's own operations, or a formula."""

import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from types import ModuleType

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from tests.metalhost import HostKernel, MetalHostError, checking, metal_kernel
from tests.metalhost.tests.support import numbers, values

if not version("mlx-lm").startswith("0.32."):
    pytest.skip("the kernels of mlx-lm 0.32", allow_module_level=True)

pytestmark = pytest.mark.needs("metalhost")


@pytest.fixture(scope="module")
def theirs() -> Callable[[str], ModuleType]:
    """A fresh copy of a module of mlx-lm whose kernels run here."""
    import mlx_lm.utils  # takes seconds

    def load(name: str) -> ModuleType:
        spec = importlib.util.find_spec(f"mlx_lm.{name}")
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mx.metal, "is_available", lambda: True)
            patch.setattr(mlx_lm.utils, "can_run_metal", lambda: True)
            patch.setattr(mx.fast, "metal_kernel", metal_kernel)
            spec.loader.exec_module(module)
        return module

    return load


def close(found: mx.array, expected: mx.array, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(values(found), values(expected), rtol, atol)


def rms(x: mx.array, eps: float) -> mx.array:
    x = x.astype(mx.float32)
    return x * mx.rsqrt((x * x).mean(-1, keepdims=True) + eps)


def gated_delta_inputs(dtype=mx.float32, vector=False, masked=False, width=128) -> list:
    B, T, Hk, Hv, Dv = 2, 5, 2, 4, 16
    q, k = (0.2 * numbers((B, T, Hk, width), dtype, seed) for seed in (1, 2))
    v, state = numbers((B, T, Hv, Dv), dtype, 3), numbers((B, Hv, Dv, width), mx.float32, 4)
    g = mx.sigmoid(numbers((B, T, Hv, width) if vector else (B, T, Hv), mx.float32, 5))
    beta = mx.sigmoid(numbers((B, T, Hv), dtype, 6))
    mask = numbers((B, T), mx.float32, 7) > -0.5 if masked else None
    return [q, k, v, g, beta, state, mask]


def packed(dtype: mx.Dtype, vector: bool, masked: bool, width: int) -> list[pytest.MarkDecorator]:
    """Their packed text takes three seconds to compile: one form of it is plain."""
    return [pytest.mark.slow] * (not vector and width == 64 and (masked or dtype != mx.float32))


GATED_DELTA = [
    pytest.param(*form, marks=packed(*form))
    for form in product((mx.float32, mx.bfloat16), (False, True), (False, True), (64, 128))
]


@pytest.mark.parametrize(("dtype", "vector", "masked", "width"), GATED_DELTA, ids=str)
def test_gated_delta(theirs, dtype, vector, masked, width):
    module = theirs("models.gated_delta")
    inputs = gated_delta_inputs(dtype, vector, masked, width)
    with checking(order=3):
        y, state = module.gated_delta_kernel(*inputs)
    expected, expected_state = module.gated_delta_ops(*inputs)
    # Masked positions: the kernel writes 0, the operations do not.
    seen = inputs[-1][..., None, None] if masked else mx.array(True)
    step = 1e-5 if dtype == mx.float32 else 1e-2
    close(mx.where(seen, y, 0), mx.where(seen, expected, 0), step, step)
    close(state, expected_state)


def test_gated_delta_trees_are_equal_bit_by_bit(theirs):
    """mlx-lm's claim for Apple GPUs: packed, explicit tree and simd_sum agree exactly."""
    module = theirs("models.gated_delta")
    inputs = gated_delta_inputs()
    packed = module.gated_delta_kernel(*inputs)
    tree = module.gated_delta_kernel_xtree(*inputs)
    module._ENABLE_GDN_PACKED = False
    plain = module.gated_delta_kernel(*inputs)
    for one, other, third in zip(packed, tree, plain, strict=True):
        assert mx.array_equal(one, other) and mx.array_equal(other, third)


def test_ssm(theirs):
    module = theirs("models.ssm")
    B, H, D, G, S = 2, 4, 24, 2, 64
    x, state = numbers((B, 1, H, D), mx.float32), numbers((B, H, D, S), mx.float32, 1)
    b, c = numbers((B, 1, G, S), mx.float32, 2), numbers((B, 1, G, S), mx.float32, 3)
    a, d, bias = (numbers((H,), mx.float32, seed) for seed in (4, 5, 6))
    arguments = (x, a, b, c, d, numbers((B, 1, H), mx.float32, 7), bias, state)
    limit = (0.001, 100.0)
    y, new = module.ssm_update_kernel(*arguments, limit)
    expected, expected_new = module.ssm_attn(*arguments, limit)
    close(y, expected, 1e-4, 1e-4)
    close(new, expected_new, 1e-4, 1e-4)


def test_deepseek_v41_sinkhorn(theirs):
    module = theirs("models.deepseek_v41")
    comb = mx.softmax(numbers((1000, 4, 4), mx.float32), axis=-1) + 1e-6
    eps = mx.array([1e-6])
    (out,) = module._sinkhorn_kernel(
        inputs=[comb, eps], template=[("HC", 4), ("ITERS", 20)], grid=(1000, 1, 1),
        threadgroup=(256, 1, 1), output_shapes=[comb.shape], output_dtypes=[mx.float32],
    )  # fmt: skip
    assert mx.array_equal(out, module._sinkhorn(comb, iters=20, eps=eps))


def test_rwkv7(theirs):
    module = theirs("models.rwkv7")
    B, T, H, D = 2, 3, 2, 64
    r, w, k, v, a, b = (0.3 * numbers((B, T, H, D), mx.float32, seed) for seed in range(6))
    state = numbers((B, H, D, D), mx.float32, 9)
    y, new = module.wkv7_kernel(r, w, k, v, a, b, state)
    for t in range(T):
        step, state = module._wkv7_step_ops(*(x[:, t] for x in (r, w, k, v, a, b)), state)
        close(y[:, t], step.squeeze(-1), 1e-4, 1e-4)
    close(new, state, 1e-4, 1e-4)


@pytest.mark.slow  # seven seconds to compile
@pytest.mark.parametrize("order", ["ascending", 1])
def test_kimi_k3_residuals(theirs, order):
    module = theirs("models.kimi_k3")
    K, N, D = 3, 4, 700
    raw, partial = numbers((K, N, D), mx.float32), numbers((N, D), mx.float32, 1)
    scale, weight = mx.rsqrt((raw * raw).mean(-1) + 1e-6), 0.1 * numbers((D,), mx.float32, 2)
    with checking(order=order):
        (out,) = module._attn_res_kernel(
            inputs=[raw, scale, partial, weight, mx.array([1e-6]), N], grid=(512, N, 1),
            template=[("InT", mx.float32), ("K", K), ("D", D), ("THREADS", 512)],
            threadgroup=(512, 1, 1), output_shapes=[(N, D)], output_dtypes=[mx.float32],
        )  # fmt: skip
    close(out, module._attn_res_combine(raw, scale, partial, weight, 1e-6), 1e-4, 1e-4)


def test_bitlinear(theirs):
    module = theirs("models.bitlinear_layers")
    packed = mx.array(np.random.default_rng(0).integers(0, 256, (6, 256), np.uint8))
    layer = module.BitLinear(256, 24, bias=False)
    layer.weight_scale = mx.array([0.5])
    x = numbers((3, 256), mx.float32)
    rows = [((values(packed) >> shift) & 3).astype(np.float32) - 1 for shift in (0, 2, 4, 6)]
    expected = values(x) @ np.concatenate(rows).T * 0.5
    close(layer.execute_matmul_kernel(x, packed), mx.array(expected), 1e-4, 1e-4)


def test_qk_norm(theirs):
    module = theirs("kernels.qk_norm")
    qkvg = numbers((2, 3, 2 * (4 + 2) * 80), mx.float32)
    shape = dict(n_heads=4, n_kv_heads=2, head_dim=80, eps=1e-6, query_scale=0.25)
    q, k = module.qk_norm(qkvg, **shape)
    close(q, 0.25 * rms(qkvg[..., : 4 * 80].reshape(2, 3, 4, 80), 1e-6))
    close(k, rms(qkvg[..., 4 * 80 : 6 * 80].reshape(2, 3, 2, 80), 1e-6))


@pytest.mark.parametrize("offset", [7, [7, 30]])
def test_qk_norm_rope(theirs, offset):
    module = theirs("kernels.qk_norm_rope")
    qkvg = numbers((2, 3, 2 * (4 + 2) * 64), mx.float32)
    positions = mx.array(offset) if isinstance(offset, list) else offset
    q, k = module.qk_norm_rope(
        qkvg, n_heads=4, n_kv_heads=2, head_dim=64, eps=1e-6, query_scale=0.25,
        rope_base=10000.0, offset=positions,
    )  # fmt: skip

    def rotated(x: mx.array) -> mx.array:
        x = rms(x, 1e-6).swapaxes(1, 2)
        rope = dict(traditional=True, base=10000.0, scale=1.0, offset=positions)
        return mx.fast.rope(x, 64, **rope).swapaxes(1, 2)

    close(q, 0.25 * rotated(qkvg[..., : 4 * 64].reshape(2, 3, 4, 64)), 1e-4, 1e-4)
    close(k, rotated(qkvg[..., 4 * 64 : 6 * 64].reshape(2, 3, 2, 64)), 1e-4, 1e-4)


def test_rms_norm_sigmoid_gate(theirs):
    """With strided inputs, which this kernel asks for."""
    module = theirs("kernels.rms_norm_sigmoid_gate")
    B, H, L, D = 2, 3, 5, 72
    x = numbers((B, L, H, D), mx.bfloat16).swapaxes(1, 2)
    gate = numbers((B, L, 2 * H * D), mx.bfloat16, 1)[..., : H * D]
    expected = rms(x, 1e-6).swapaxes(1, 2).flatten(2) * mx.sigmoid(gate.astype(mx.float32))
    close(module.rms_norm_sigmoid_gate(x, gate, eps=1e-6), expected, 2**-8, 1e-3)


def test_expert_routing(theirs):
    module = theirs("kernels.expert_routing")
    logits, bias = numbers((16, 50), mx.float32), 0.1 * numbers((50,), mx.float32, 1)
    options = dict(top_k=6, multiplier=1.5, score_eps=1e-6, route_scale=2.5)
    chosen, weights = module.expert_routing(logits, bias, **options)
    scores = mx.sigmoid(1.5 * logits)
    expected = mx.argsort(-(scores + bias), axis=-1)[:, :6]
    assert mx.array_equal(chosen, expected.astype(mx.uint32))
    best = mx.take_along_axis(scores, expected, -1)
    close(weights, 2.5 * best / (best.sum(-1, keepdims=True) + 1e-6))


@pytest.mark.parametrize("order", ["ascending", "descending", 5])
def test_post_expert_norm_combine(theirs, order):
    module = theirs("kernels.post_expert_norm_combine")
    experts, weights = numbers((5, 4, 700), mx.float32), numbers((5, 4), mx.float32, 1)
    scale = numbers((700,), mx.float32, 2)
    with checking(order=order):
        out = module.post_expert_norm_combine(experts, weights, norm_weight=scale, eps=1e-6)
    close(out, (rms(experts * scale, 1e-6) * weights[..., None]).sum(-2))


@pytest.mark.parametrize("order", ["ascending", "descending", 5])
def test_norm_add_norm(theirs, order):
    module = theirs("kernels.norm_add_norm")
    D = 1500
    branch, stream = numbers((3, D), mx.float32), numbers((3, D), mx.float32, 1)
    alpha, beta, weight = (numbers((D,), mx.float32, seed) for seed in (2, 3, 4))
    norm = nn.RMSNorm(D, eps=1e-5)
    norm.weight = numbers((D,), mx.float32, 5)
    with checking(order=order):
        new, normed = module.norm_add_norm(
            branch, stream, alpha=alpha, beta=beta, post_weight=weight, post_eps=1e-6,
            next_norm=norm,
        )  # fmt: skip
        again = module.pre_norm(new, norm, dtype=mx.float32)
    close(new, alpha * stream + beta * rms(weight * branch, 1e-6))
    close(normed, rms(new, 1e-5) * norm.weight)
    assert mx.array_equal(normed, again)


SHARE = "// Share the sum_exp across the threadgroup"


@pytest.mark.parametrize("loss", ["kl", "js"])
def test_losses_share_scratch_without_barriers(theirs, loss):
    """Mistakes of these texts that show here: two exchanges through `shared` miss their barrier.

    Sums go where other simdgroups may still read maxima, and the last exchange has a barrier that
    orders no memory. With both repaired the text stays silent and gives what the operations give.
    """
    module = theirs("tuner.losses")
    q, p = numbers((2, 4100), mx.float32), numbers((2, 4100), mx.float32, 1)
    forward = getattr(module, f"_{loss}_forward_kernel")
    call = dict(
        inputs=[q, p], template=[("T", mx.float32), ("V", 4100)], grid=(1024, 2, 1),
        threadgroup=(1024, 1, 1), output_shapes=[(2,)] * len(forward.output_names),
        output_dtypes=[mx.float32] * len(forward.output_names),
    )  # fmt: skip
    with pytest.raises(MetalHostError, match=r"race.*threadgroup shared.*sum_exp_q"):
        forward(**call)
    source = forward.source.replace(SHARE, "threadgroup_barrier(mem_flags::mem_threadgroup);")
    with pytest.raises(MetalHostError, match=r"race: .*kl.*threadgroup shared"):
        repaired(forward, source)(**call)
    source = source.replace("mem_none", "mem_threadgroup")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "can_run_metal", lambda: False)
        expected = getattr(module, f"{loss}_div_loss")(q, p)
    for order in ("ascending", 1):
        with checking(order=order):
            close(repaired(forward, source)(**call)[0], expected, 1e-4, 1e-4)


def repaired(kernel: HostKernel, source: str) -> HostKernel:
    return metal_kernel(kernel.name, kernel.input_names, kernel.output_names, source)
