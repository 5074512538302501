"""The embedded model here and on the CPU: the same tokens, and logits how far apart."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from benchmarks.report.setting import Setting
from benchmarks.report.teller import Teller

FOLDER = Path(__file__).parents[3] / "dsv4_mlx" / "nano"
QUESTION = "What is DeepSeek-V4?"
LONG = 240
"""Tokens of a prompt after which a graph is replayed: every layer has entries, and windows of 4 and
128 tokens close among the next 16."""


def run(teller: Teller, setting: Setting) -> None:
    """One row `nano`; the tokens here by replayed graphs where that was chosen."""
    from dsv4_mlx.loading import load

    count = setting.sizes.greedy_tokens
    teller.at("nano on the CPU")
    model, tokenizer = load(FOLDER, backend="cpu")
    prompt, replayed = tokenizer.encode(QUESTION), "replayed" in setting.choices
    if replayed:
        prompt = (prompt * LONG)[:LONG]
    tokens, expected, _ = answered(model, prompt, count)
    teller.at(f"nano on {setting.backend}")
    model, _ = load(FOLDER, backend=setting.backend)
    step = model.compiled_step() if replayed else None
    _, found, seconds = answered(model, prompt, count, tokens, step)
    graphs = {} if step is None else {"graphs": step.traces}
    told = apart(found, expected) | graphs
    teller.row("nano", tokens=count, median_s=statistics.median(seconds), **told)


def answered(
    model: object,
    prompt: Sequence[int],
    count: int,
    tokens: Sequence[int] | None = None,
    step: object = None,
) -> tuple[list[int], np.ndarray, list[float]]:
    """Tokens after `prompt`, logits [count, V] that they were chosen from, seconds of each.

    With `tokens` these are fed instead of the model's own, so that two runs can be compared all
    the way even where they would part. A `step` of the model takes its place.
    """
    from dsv4_mlx import cache as caches
    from dsv4_mlx.model.compiled import CompiledStep
    from dsv4_mlx.model.v4 import Model

    assert isinstance(model, Model)
    stepping = step if isinstance(step, CompiledStep) else model
    cache = model.make_cache()
    part, chosen, logits, seconds = mx.array([list(prompt)]), [], [], []
    for number in range(count):
        started = time.perf_counter()
        last = stepping.last_logits(part, cache)
        mx.eval(last, caches.evaluated(cache))
        seconds.append(time.perf_counter() - started)
        logits.append(np.array(last[0].astype(mx.float32)))
        own = int(logits[-1].argmax())
        chosen.append(own if tokens is None else tokens[number])
        part = mx.array([[chosen[-1]]])
    return chosen, np.stack(logits), seconds[1:]


def apart(found: np.ndarray, expected: np.ndarray) -> dict[str, object]:
    """How logits [n, V] differ from the CPU's, and what that means for the tokens.

    `margin` is how far the CPU's token was ahead of the one chosen here, in logits of the CPU, at
    the first place where they differ: a margin below the largest difference is a near tie, no
    fault.
    """
    difference = np.abs(found.astype(np.float64) - expected)
    other = np.flatnonzero(found.argmax(-1) != expected.argmax(-1))
    result: dict[str, object] = {
        "largest_difference": float(difference.max()),
        "deviation": float(expected.std()),
        "differs_at": int(other[0]) if other.size else None,
    }
    if other.size:
        at = other[0]
        result["margin"] = float(expected[at].max() - expected[at, found[at].argmax()])
        result["difference_there"] = float(difference[at].max())
    return result
