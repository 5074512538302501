"""An op that breaks on purpose: from some rows on a bit of each result is another one."""

from typing import Any

import mlx.core as mx

from metal_kernels.registry import KernelPlan


def broken_at(plan: KernelPlan, name: str, rows: int, by: int = 1) -> KernelPlan:
    """`plan`, whose op `name` is wrong by `by` last bits in calls of `rows` rows and more."""
    if not name:
        return plan
    own = getattr(plan.ops, name)

    def wrong(*given: Any, **options: Any) -> mx.array:
        result: mx.array = own(*given, **options)
        count = result.shape[1] if name == "sparse_attention" else result.shape[0]
        return result if count < rows else (result.view(mx.uint32) + by).view(mx.float32)

    vars(plan.ops)[name] = wrong
    return plan
