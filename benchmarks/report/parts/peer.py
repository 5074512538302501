"""mlx-vlm with the same layers and random weights, where it is installed."""

import importlib.util
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from benchmarks.report import limits
from benchmarks.report.parts.layers import tokens_of
from benchmarks.report.setting import Setting
from benchmarks.report.sizes import layered
from benchmarks.report.synthetic import array_of, fitting, weight_bytes
from benchmarks.report.teller import Teller
from dsv4_mlx.release.config import DeepseekV4Config
from metal_kernels.backend import resolve

_WARM_UPS = 3
_PROMPT_ROUNDS = 3


def run(teller: Teller, setting: Setting) -> None:
    """Rows `peer` and `peer prefill`; `absent` where mlx-vlm is not installed."""
    if importlib.util.find_spec("mlx_vlm") is None:
        teller.row("absent", program="mlx-vlm")
        return
    from benchmarks.mlx_vlm_graph import packed_model

    measured(teller, setting, f"mlx-vlm {version('mlx-vlm')}", packed_model)


def measured(
    teller: Teller,
    setting: Setting,
    program: str,
    make: Callable[[DeepseekV4Config], Any],
) -> None:
    """Time the model that `make` gives, with what fits of the layers."""
    mx.set_default_device(mx.cpu if resolve(setting.backend) == "cpu" else mx.gpu)
    sizes, limit = setting.sizes, limits.memory_limit(setting.backend)
    count, _ = fitting(sizes.config, limit, sizes.most_layers)
    if not count:
        return
    config = layered(sizes.config, count)
    if "wired" in setting.choices:
        limits.wire(setting.backend, weight_bytes(config))
    teller.at(f"making {program}")
    model = make(config)
    fill(model, config)
    cache = model.make_cache()
    last = model(mx.array([tokens_of(config, sizes.prefill[0])]), cache=cache).logits[:, -1]
    mx.eval(last)
    teller.at("decoding")
    token, seconds = last.argmax(-1)[None], []
    for _ in range(_WARM_UPS + sizes.decode_tokens):
        started = time.perf_counter()
        token = model(token, cache=cache).logits[:, -1].argmax(-1)[None]
        mx.eval(token)
        seconds.append(time.perf_counter() - started)
    total = statistics.median(seconds[_WARM_UPS:])
    teller.row("peer", program=program, layers=count, total_s=total)
    for length in sizes.prefill:
        teller.at(f"a prompt of {length:,} tokens")
        prompt = mx.array([tokens_of(config, length)])
        times = [_read_s(model, prompt) for _ in range(1 + _PROMPT_ROUNDS)]
        teller.row(
            "peer prefill", program=program, tokens=length, seconds=statistics.median(times[1:])
        )


def _read_s(model: Any, prompt: mx.array) -> float:
    started = time.perf_counter()
    mx.eval(model(prompt, cache=model.make_cache()).logits[:, -1])
    return time.perf_counter() - started


def fill(model: Any, config: DeepseekV4Config) -> None:
    """Random values in place of a model's own, in the same forms."""
    filled = []
    for number, (path, array) in enumerate(tree_flatten(model.parameters())):
        made = array_of(config, path, array.shape, array.dtype, mx.random.key(number))
        mx.eval(made)
        filled.append((path, made))
    model.update(tree_unflatten(filled))
