"""What Python does for one decoded token, counted: the same number whatever the machine's load.

    python -m benchmarks.host [--json] [--model flash,pro] [--context N,...]

For each model and context: executed bytecodes (opcode events of CPython's tracer) of one token, by
file; launches of custom kernels, and bytes of text that they carry, which MLX hashes at every
launch. The token is the second of two: what is remembered from call to call is there then. So at
context 8192 no window closes, at 8190 every compressor closes one. Then the same of a token whose
graph was built by another one like it (`Model.compiled_step`), of a token with products that keep
their bits among several rows, and of a pass of 6 such rows. Nothing is evaluated, weights and
cache are only shapes (see `dsv4_mlx.tracing`). The rows go to results/host.csv.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import mlx.core as mx

from benchmarks.counting import display_name, primitives
from benchmarks.launches import MODELS, ROWS
from benchmarks.record import record
from dsv4_mlx import tracing
from dsv4_mlx.cache import begin, commit
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.unloaded import cache_after
from metal_kernels import sources
from metal_kernels.backend import Backend
from metal_kernels.variants import recording

FIELDS = ("model", "context", "step", "bytecodes", "custom_kernels", "text_bytes")
ROOT = Path(__file__).parents[1]
_OURS = "dsv4_"


@dataclass(frozen=True)
class Host:
    """One token of a model at a context."""

    model: str
    context: int
    step: str
    """Out of STEPS: `built` anew, `replayed` from a graph, `exact`, or `rows`."""
    by_file: dict[str, int]
    custom_kernels: int
    text_bytes: int

    @property
    def bytecodes(self) -> int:
        return sum(self.by_file.values())

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}


def host(
    model: str,
    config: DeepseekV4Config,
    context: int,
    backend: Backend = "metal",
    *,
    step: str = "built",
) -> Host:
    """Count the second of two tokens after `context` of them, by a step out of STEPS."""
    by_file = dict(STEPS[step](config, context, backend).most_common())
    return Host(model, context, step, by_file, *carried(config, context, backend, step))


def built(
    config: DeepseekV4Config, context: int, backend: Backend = "metal", *, exact_rows: int = 1
) -> Counter[str]:
    """Bytecodes of the second of two tokens after `context` of them, by file."""
    found: Counter[str] = Counter()
    traced, cache_ = tracing.traced_model(config, backend, context, exact_rows=exact_rows)

    def step(tokens: mx.array) -> list[mx.array]:
        traced.last_logits(tokens, cache_)
        with bytecodes(found):
            logits = traced.last_logits(tokens, cache_)
        return [logits]

    tracing.trace(step, mx.zeros((1, 1), mx.int32), model=traced, cache=cache_)
    return found


def replayed(config: DeepseekV4Config, context: int, backend: Backend = "metal") -> Counter[str]:
    """The same of a token at that place that replays the graph of one like it."""
    found: Counter[str] = Counter()
    traced, cache_ = tracing.traced_model(config, backend, context + 1)
    step, token = traced.compiled_step(), mx.zeros((1, 1), mx.int32)
    with recording():
        step.last_logits(token, cache_)
        cache_ = cache_after(traced, context + 1, 1)
        with bytecodes(found):
            step.last_logits(token, cache_)
    if step.traces != 1:
        raise RuntimeError(f"expected one graph of two tokens alike but found {step.traces}")
    return found


def of_rows(
    config: DeepseekV4Config, context: int, backend: Backend = "metal", *, rows: int = ROWS
) -> Counter[str]:
    """The same of the second of two passes of `rows` tokens, of which all turn out to stay."""
    found: Counter[str] = Counter()
    traced, cache_ = tracing.traced_model(config, backend, context, exact_rows=rows)

    def verified(tokens: mx.array) -> mx.array:
        begin(cache_)
        logits = traced(tokens, cache_)
        commit(cache_, rows)
        return logits

    def step(tokens: mx.array) -> list[mx.array]:
        verified(tokens)
        with bytecodes(found):
            logits = verified(tokens)
        return [logits]

    tracing.trace(step, mx.zeros((1, rows), mx.int32), model=traced, cache=cache_)
    return found


STEPS: dict[str, Callable[[DeepseekV4Config, int, Backend], Counter[str]]] = {
    "built": built,
    "replayed": replayed,
    "exact": partial(built, exact_rows=ROWS),
    "rows": of_rows,
}


@contextmanager
def bytecodes(found: Counter[str]) -> Iterator[None]:
    """Count the bytecodes executed within into `found` by file, those of this package left out."""

    def traced(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        file = frame.f_code.co_filename
        if file in _NOT_COUNTED:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        found[_short(file)] += event == "opcode"
        return traced

    sys.settrace(traced)
    try:
        yield
    finally:
        sys.settrace(None)


_NOT_COUNTED = {
    __file__,
    *(str(file) for file in Path(tracing.__file__).parent.glob("*.py")),
    contextmanager.__code__.co_filename,
}


def _short(file: str) -> str:
    return str(Path(file).relative_to(ROOT)) if file.startswith(str(ROOT)) else Path(file).name


def carried(
    config: DeepseekV4Config, context: int, backend: Backend, step: str = "built"
) -> tuple[int, int]:
    """Custom kernels of one token or pass that are ours, and the bytes of their texts."""
    if step == "rows":
        graph = tracing.block_graph(config, backend=backend, context=context + ROWS, rows=ROWS)
    else:
        exact_rows = ROWS if step == "exact" else 1
        graph = tracing.decode_graph(
            config, backend=backend, context=context + 1, exact_rows=exact_rows
        )
    nodes = [display_name(node) for node in primitives(graph) if node["name"] == "CustomKernel"]
    ours = [name.removeprefix(_OURS) for name in nodes if name.startswith(_OURS)]
    return len(ours), sum(text_bytes(backend, name) for name in ours)


@cache
def text_bytes(backend: Backend, name: str) -> int:
    """Characters of a text as MLX gets it, all of them ASCII."""
    return sum(map(len, sources.text(backend, name)))


def lines(one: Host) -> list[str]:
    """A count for readers."""
    mean = one.text_bytes / max(1, one.custom_kernels)
    found = [
        f"{one.model} at {one.context:,} tokens, {one.step}: {one.bytecodes:,} bytecodes; "
        f"{one.custom_kernels} custom kernels, {one.text_bytes:,} bytes of text, {mean:,.0f} each"
    ]
    return found + [f"  {count:8,} {file}" for file, count in list(one.by_file.items())[:12]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--model", default="flash", help="out of flash, pro")
    parser.add_argument("--context", default="8190,8192", help="tokens before the counted two")
    options = parser.parse_args(arguments)
    found = [
        host(model, MODELS[model], context, step=step)
        for model in options.model.split(",")
        for context in map(int, options.context.split(","))
        for step in STEPS
    ]
    if options.json:
        print(json.dumps([vars(one) for one in found], indent=1))
    else:
        print("\n".join(line for one in found for line in lines(one)))
    command = f"python -m benchmarks.host --model {options.model} --context {options.context}"
    record("host", command, [one.row() for one in found], FIELDS)


if __name__ == "__main__":
    main()
