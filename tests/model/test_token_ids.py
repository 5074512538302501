"""Token ids reach the kernels in one dtype, whether they come from a prompt or from a draw."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import TINY
from dsv4_mlx.tracing import place_weights
from metal_kernels.registry import KernelPlan, as_ops, kernels

Dtypes = list[tuple[str, mx.Dtype]]


def model(dtypes: Dtypes) -> Model:
    """A model that tells the dtype of every array of integers that those kernels are given."""

    def watched(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
        def op(*arrays: Any, **options: Any) -> Any:
            ids = [a for a in (*arrays, *options.values()) if isinstance(a, mx.array)]
            dtypes.extend((name, a.dtype) for a in ids if mx.issubdtype(a.dtype, mx.integer))
            return reference(*arrays, **options)

        return op

    ops = {name: kernel.reference for name, kernel in kernels().items()}
    ops |= {name: watched(name, ops[name]) for name in ("embed_streams", "hash_router")}
    plan = KernelPlan("cpu", as_ops("cpu", ops), dict.fromkeys(ops, "reference"))
    made = Model(TINY, plan=plan)
    place_weights(made)
    return made


def test_drawn_ids_are_prompts_ids_to_the_kernels() -> None:
    """Each dtype would be another kernel to compile, in the middle of an answer."""
    dtypes: Dtypes = []
    own = model(dtypes)
    prompt = mx.array([[3, 4, 5]])
    for tokens in (prompt, mx.argmax(mx.ones((1, 1, 7)), axis=-1), prompt.astype(mx.uint32)):
        own.streams(tokens, own.make_cache())
    assert {name for name, _ in dtypes} == {"embed_streams", "hash_router"}
    assert {dtype for name, dtype in dtypes if name == "embed_streams"} == {mx.int32}
