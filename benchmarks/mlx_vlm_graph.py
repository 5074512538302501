"""The decode graph of mlx-vlm 0.7.10's DeepSeek-V4, traced like ours and with its Metal branch on.

mlx-vlm asks for Metal while it is imported and while it runs, so it is imported here with
`mx.metal.is_available` and `mx.default_device` answering as on a Mac. Its weights are those of the
release: FP4 and FP8 matrices packed, everything else bfloat16 or float32 as its `cast_predicate`
says. The cache comes from a prompt that is never evaluated. `mx.compile` leaves no trace when a
graph is exported, so each compiled region is traced by itself, counted with its elementwise
operations fused, and put into the graph as one node `custom_kernel_mlx_Compiled_<launches>`.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from benchmarks.counting import fused_launches
from dsv4_mlx import tracing
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.tracing import stand_ins

VERSION = "0.7.10"
MXFP4 = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
MXFP8 = {"group_size": 32, "bits": 8, "mode": "mxfp8"}
# What the release stores in FP8, by mlx-vlm's names.
_FP8 = (".attn.wq_a", ".attn.wq_b", ".attn.wkv", ".attn.wo_a", ".attn.wo_b", ".indexer.wq_b")


def decode_graph(config: DeepseekV4Config, *, context: int) -> list[dict[str, Any]]:
    """The callbacks of one greedy token after `context` tokens, batch 1."""
    with as_on_a_mac():
        model = packed_model(config)
        cache = _cache_after(model, context)

        def step(tokens: mx.array) -> list[mx.array]:
            token = model(tokens, cache=cache).logits[:, -1].argmax(-1)
            kept = (value for _, value in tree_flatten([one.state for one in cache]))
            return [token, *(value for value in kept if isinstance(value, mx.array))]

        tokens = mx.zeros((1, 1), mx.int32)
        return tracing.trace(step, tokens, model=model, cache=cache)


@contextmanager
def as_on_a_mac() -> Iterator[None]:
    """Metal is there, nothing is evaluated, compiled regions are nodes."""
    replaced: dict[tuple[Any, str], Any] = {
        (mx.metal, "is_available"): lambda: True,
        (mx, "default_device"): lambda: mx.gpu,
        (mx, "eval"): lambda *arrays: None,
        (mx, "async_eval"): lambda *arrays: None,
        (mx, "compile"): compiled,
    }
    kept = {place: getattr(*place) for place in replaced}
    loaded = [name for name in sys.modules if name.partition(".")[0] == "mlx_vlm"]
    hidden = {name: sys.modules.pop(name) for name in loaded}
    try:
        for (module, name), value in replaced.items():
            setattr(module, name, value)
        yield
    finally:
        for (module, name), value in kept.items():
            setattr(module, name, value)
        for name in [name for name in sys.modules if name.partition(".")[0] == "mlx_vlm"]:
            del sys.modules[name]
        sys.modules |= hidden


def packed_model(config: DeepseekV4Config) -> Any:
    """mlx-vlm's model, its matrices packed as the release stores them; all of it zeros."""
    family = "mlx_vlm.models.deepseek_v4"
    settings = importlib.import_module(f"{family}.config").ModelConfig.from_dict(keys_of(config))
    model = importlib.import_module(f"{family}.language").LanguageModel(settings)
    model.eval()

    def packing(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if ".switch_mlp." in path:
            return hasattr(module, "to_quantized") and MXFP4
        return (".shared_experts." in path and MXFP8) or (path.endswith(_FP8) and MXFP8)

    nn.quantize(model, class_predicate=lambda p, m: hasattr(m, "to_quantized") and packing(p, m))
    cast = model.cast_predicate
    forms = [
        (path, mx.zeros(array.shape, mx.bfloat16 if _is_cast(cast, path, array) else array.dtype))
        for path, array in tree_flatten(model.parameters())
    ]
    model.update(tree_unflatten(forms))
    return model


def _cache_after(model: Any, context: int) -> list[Any]:
    """A cache with the shapes that a prompt leaves; kernels can only be called in a trace."""
    cache = model.make_cache()

    def prompt(tokens: mx.array) -> mx.array:
        # Two single tokens after the prompt bring the rotating windows to their decode form.
        for length in (context - 2, 1, 1):
            last = model(mx.repeat(tokens, length, axis=1), cache=cache).logits
        return last

    with stand_ins.one_node_each():
        mx.export_function(lambda _: None, prompt, mx.zeros((1, 1), mx.int32))
    for place in tracing.each_array(cache, "cache", set()):
        place.put(mx.zeros(place.array.shape, place.array.dtype))
    return cache


def _is_cast(cast: Callable[[str], bool], path: str, array: mx.array) -> bool:
    return array.dtype in (mx.float32, mx.bfloat16) and cast(path)


def compiled(fun: Callable[..., Any] | None = None, *_: Any, **options: Any) -> Callable[..., Any]:
    """In place of `mx.compile`: a call becomes one node that knows its launches."""
    if fun is None:
        return partial(compiled, **options)

    @wraps(fun)
    def region(*arguments: Any) -> Any:
        places = [i for i, one in enumerate(arguments) if isinstance(one, mx.array)]

        def inner(*arrays: mx.array) -> list[mx.array]:
            filled = list(arguments)
            for place, array in zip(places, arrays, strict=True):
                filled[place] = array
            result = fun(*filled)
            return list(result) if isinstance(result, tuple) else [result]

        given = [arguments[place] for place in places]
        seen: list[dict[str, Any]] = []
        mx.export_function(seen.append, inner, *(mx.zeros(a.shape, a.dtype) for a in given))
        outputs = next(item["outputs"] for item in seen if item["type"] == "outputs")
        forms = [(shape, dtype) for _, shape, dtype in outputs]
        results = stand_ins.stand_in(f"Compiled_{fused_launches(seen)}", given, forms)
        return results[0] if len(results) == 1 else tuple(results)

    return region
