"""One engine in its own process: loads a checkpoint, then decodes or prefills when told.

Protocol, one JSON value per line. First out: {"engine", "load_s"}. In: {"prefill": n} or
{"decode": n}; out: {"seconds": [...], "peak_bytes": ...}. Seconds are per token for decode and
for the whole prompt for prefill. `peak_bytes` is the largest resident size of this program.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import peak_bytes

Engine = tuple[Callable[[list[int]], None], Callable[[], None]]
"""`prefill(tokens)` starts a new timeline, `decode()` adds one greedy token to it."""


def ours(folder: Path) -> Engine:
    """This project on the CPU with official numerics."""
    import mlx.core as mx

    from dsv4_mlx import cache as caches
    from dsv4_mlx.loading import load_model
    from dsv4_mlx.weights.checkpoint import open_checkpoint

    model = load_model(
        open_checkpoint(folder),
        backend="cpu",
    )
    state: dict[str, Any] = {}

    def prefill(tokens: list[int]) -> None:
        state["cache"] = model.make_cache()
        step(mx.array([tokens]))

    def step(tokens: mx.array) -> None:
        state["token"] = model.last_logits(tokens, state["cache"]).argmax(-1)[None]
        mx.eval(state["token"], caches.evaluated(state["cache"]))

    return prefill, lambda: step(state["token"])


def mlx_vlm(folder: Path, dtype: str) -> Engine:
    """mlx-vlm's text model, given the official tensors and the packings it would convert to.

    It cannot load an official folder by itself: the FP8 scales are repeated by its own sanitize,
    what stays is to switch the matrices that arrived packed to its packed layers.
    """
    import mlx.core as mx
    import mlx.nn as nn
    from mlx_vlm.models.deepseek_v4.config import ModelConfig
    from mlx_vlm.models.deepseek_v4.language import LanguageModel

    mx.set_default_device(mx.cpu)
    config = ModelConfig.from_dict(json.loads((folder / "config.json").read_text()))
    model = LanguageModel(config)
    weights: dict[str, mx.array] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        weights |= mx.load(str(shard))
    weights = model.sanitize(weights)
    mxfp4 = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    mxfp8 = {"group_size": 32, "bits": 8, "mode": "mxfp8"}

    def packing(path: str, _: nn.Module) -> bool | dict[str, Any]:
        if f"{path}.scales" not in weights:
            return False
        return mxfp4 if ".switch_mlp." in path else mxfp8

    nn.quantize(model, class_predicate=packing)
    target = getattr(mx, dtype)
    cast = model.cast_predicate
    weights = {
        k: v.astype(target) if v.dtype in (mx.bfloat16, mx.float32) and cast(k) else v
        for k, v in weights.items()
    }
    model.load_weights(list(weights.items()))
    weights.clear()
    mx.eval(model.parameters())
    state: dict[str, Any] = {}

    def prefill(tokens: list[int]) -> None:
        state["cache"] = model.make_cache()
        step(mx.array([tokens]))

    def step(tokens: mx.array) -> None:
        logits = model(tokens, cache=state["cache"]).logits[:, -1]
        state["token"] = logits.argmax(-1)[None]
        mx.eval(state["token"], [c.state for c in state["cache"]])

    return prefill, lambda: step(state["token"])


def transformers(folder: Path) -> Engine:
    """transformers in bfloat16 on the CPU, its weights dequantized from the same tensors."""
    import torch
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

    from dsv4_mlx.release.naming import translate
    from dsv4_mlx.testing.checkpoints import each_dequantized

    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    with torch.device("meta"):
        model = DeepseekV4ForCausalLM(DeepseekV4Config(**config)).to(torch.bfloat16)
    state_dict: dict[str, torch.Tensor] = {}
    stacks: dict[str, dict[tuple[int, int], torch.Tensor]] = {}
    for name, array in each_dequantized(folder):
        tensor = torch.from_numpy(array)
        if tensor.dtype == torch.float32:
            tensor = tensor.to(torch.bfloat16)
        target = translate(name)
        if target.expert is None:
            state_dict[target.name] = tensor
        else:
            stacks.setdefault(target.module, {})[target.expert, target.half] = tensor
    for module, parts in stacks.items():
        rows = [parts.pop(key) for key in sorted(parts)]
        state_dict[module] = torch.cat(rows).reshape(
            config["n_routed_experts"], -1, rows[0].shape[1]
        )
    model.load_state_dict(state_dict, assign=True, strict=False)
    for module in model.modules():  # what is computed from the config is not in a checkpoint
        if "RotaryEmbedding" in type(module).__name__:
            fresh = type(module)(model.config)
            for name, buffer in fresh.named_buffers():
                module.register_buffer(name, buffer, persistent=False)
    model.eval()
    state: dict[str, Any] = {}

    def step(tokens: torch.Tensor, past: Any) -> None:
        with torch.inference_mode():
            output = model(tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
        state["past"], state["token"] = output.past_key_values, output.logits[:, -1].argmax(-1)

    def prefill(tokens: list[int]) -> None:
        step(torch.tensor([tokens]), None)

    return prefill, lambda: step(state["token"][None], state["past"])


ENGINES: dict[str, Callable[[Path], Engine]] = {
    "ours": ours,
    "mlx-vlm-float32": lambda folder: mlx_vlm(folder, "float32"),
    "mlx-vlm-bfloat16": lambda folder: mlx_vlm(folder, "bfloat16"),
    "transformers-bfloat16": transformers,
}


def main() -> None:
    """Serve one engine on stdin and stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fast-blas", action="store_true", help="load the project's BLAS first")
    options = parser.parse_args()
    if options.fast_blas:
        from dsv4_mlx import blas

        blas.ensure_fast_blas()
    started = time.perf_counter()
    prefill, decode = ENGINES[options.engine](options.folder)
    _answer({"engine": options.engine, "load_s": time.perf_counter() - started})
    vocab = json.loads((options.folder / "config.json").read_text())["vocab_size"]
    tokens = np.random.default_rng(0).integers(3, vocab, 1 << 16).tolist()
    for line in sys.stdin:
        order = json.loads(line)
        if "prefill" in order:
            seconds = [_timed(lambda n=order["prefill"]: prefill(tokens[:n]))]
        else:
            seconds = [_timed(decode) for _ in range(order["decode"])]
        _answer({"seconds": seconds, "peak_bytes": peak_bytes()})


def _timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
