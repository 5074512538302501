"""Decode time, prefill rate, memory and cache bytes against the context, 1K to 1M tokens.

    python -m benchmarks.context [--backend auto] [--real N] [--contexts N,...] [--tokens N]

The model is `LONG` of dsv4_mlx/testing/checkpoints.py: one layer of each kind, tiny, so that what
grows with the context shows. One prompt is really prefilled, measured at each context on the way,
up to `--real` tokens; beyond, the entries repeat after the real ones. The index scan, the one part
of decoding that has to grow, is measured alone beside it. The rows go to results/context.csv.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from benchmarks.record import device, record
from dsv4_mlx import cache as caches
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.sizing.prefill import SHORT_CHUNK
from dsv4_mlx.testing.checkpoints import LONG, write_tiny_checkpoint
from dsv4_mlx.testing.long_context import stretched

if TYPE_CHECKING:
    from dsv4_mlx.cache import LayerCache
    from dsv4_mlx.model.v4 import Model

CONTEXTS = (1024, 8192, 32768, 131072, 262144, 1048576)
FIELDS = ("backend", "device", "context", "cache", "prefill_tokens_per_s", "prefill_peak_bytes")
FIELDS += ("decode_ms", "scan_ms", "decode_peak_bytes", "cache_bytes", "predicted_bytes")

_RATE_CHUNKS = 4
"""The prefill rate is that of the last chunks before a context."""


@dataclass
class Timeline:
    """One growing prompt."""

    model: "Model"
    cache: list["LayerCache"]
    tokens: np.ndarray
    position: int = 0

    def prefill(self, stop: int) -> tuple[float, int]:
        """Read on to `stop` tokens; tokens per second of the last chunks and the peak memory."""
        seconds: list[float] = []
        mx.reset_peak_memory()
        while self.position < stop:
            count = min(SHORT_CHUNK, stop - self.position)
            seconds.append(_timed(lambda n=count: self._read(n)) / count)
        return 1 / statistics.mean(seconds[-_RATE_CHUNKS:]), mx.get_peak_memory()

    def _read(self, count: int) -> None:
        part = self.tokens[self.position : self.position + count]
        logits = self.model.last_logits(mx.array(part[None]), self.cache)
        mx.eval(logits, caches.evaluated(self.cache))
        self.position += count

    def decode(self, count: int) -> tuple[float, int]:
        """Median seconds of a greedy token and the peak memory; the timeline stays where it is."""
        moment = caches.snapshot(self.cache)
        token = mx.array([[1]])
        mx.reset_peak_memory()
        seconds = []
        for _ in range(count):
            started = time.perf_counter()
            token = self.model.last_logits(token, self.cache).argmax(-1)[None]
            mx.eval(token, caches.evaluated(self.cache))
            seconds.append(time.perf_counter() - started)
        peak = mx.get_peak_memory()
        caches.restore(self.cache, moment)
        return statistics.median(seconds), peak


def scan(model: "Model", cache: Sequence["LayerCache"], rounds: int) -> float:
    """Median seconds of what the indexers of one token do alone: scores and top-k."""
    config = model.config
    heads, width = config.index_n_heads, config.index_head_dim
    q = mx.random.normal((1, 1, heads, width), key=mx.random.key(0))
    weights = mx.random.normal((1, 1, heads), key=mx.random.key(1))
    mx.eval(q, weights)

    def every_layer() -> None:
        mx.eval(selections(model, cache, q, weights))

    every_layer()
    return statistics.median(_timed(every_layer) for _ in range(rounds))


def selections(
    model: "Model", cache: Sequence["LayerCache"], q: mx.array, weights: mx.array
) -> list[mx.array]:
    """What each indexer selects for the next token, given prepared queries and head weights."""
    return [
        layer.self_attn.compressor.indexer.select(q, weights, state.keys.rows(), state.position)
        for layer, state in zip(model.layers, (one.rows[0] for one in cache), strict=True)
        if state.keys is not None
    ]


def _timed(action: Callable[[], None]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def load_synthetic(config: DeepseekV4Config, backend: str) -> "Model":
    """A model of this config with seeded weights, through an official folder."""
    from dsv4_mlx.loading import load_model
    from dsv4_mlx.weights.checkpoint import open_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        write_tiny_checkpoint(folder, config, tokenizer=False)
        return load_model(
            open_checkpoint(folder),
            backend=backend,
        )


def rows(
    contexts: Sequence[int], real: int, *, backend: str = "auto", tokens: int = 8
) -> Iterator[dict[str, Any]]:
    """One row per context, the small ones first."""
    model = load_synthetic(LONG, backend)
    prompt = np.random.default_rng(0).integers(3, LONG.vocab_size, max(contexts), dtype=np.int32)
    timeline = Timeline(model, model.make_cache(), prompt)
    for context in sorted(contexts):
        prefill: dict[str, Any] = {"cache": "generated"}
        if context <= real:
            rate, peak = timeline.prefill(context)
            prefill = {
                "cache": "prefilled",
                "prefill_tokens_per_s": round(rate),
                "prefill_peak_bytes": peak,
            }
        else:
            stretched(timeline.cache, context)
        yield {
            "backend": model.kernel_plan()["backend"],
            "device": device(),
            "context": context,
            **prefill,
            **_decoded(timeline, context, tokens),
        }


def _decoded(timeline: Timeline, context: int, tokens: int) -> dict[str, Any]:
    timeline.decode(1)
    seconds, peak = timeline.decode(tokens)
    return {
        "decode_ms": round(seconds * 1e3, 3),
        "scan_ms": round(scan(timeline.model, timeline.cache, tokens) * 1e3, 3),
        "decode_peak_bytes": peak,
        "cache_bytes": caches.nbytes(timeline.cache),
        "predicted_bytes": Costs(timeline.model.config).cache_bytes(context),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="auto", choices=("auto", "metal", "cuda", "cpu"))
    parser.add_argument("--real", type=int, default=131072, help="tokens that are prefilled")
    parser.add_argument("--contexts", default=",".join(map(str, CONTEXTS)))
    parser.add_argument("--tokens", type=int, default=8, help="decoded tokens per context")
    options = parser.parse_args(arguments)
    contexts = [int(context) for context in options.contexts.split(",")]
    command = f"python -m benchmarks.context --real {options.real} --contexts {options.contexts}"
    for row in rows(contexts, options.real, backend=options.backend, tokens=options.tokens):
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        record("context", f"{command} --tokens {options.tokens}", [row], FIELDS)


if __name__ == "__main__":
    main()
