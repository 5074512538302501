"""The parts of a report in their order, and the process that each wants."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from benchmarks.report.setting import Setting
from benchmarks.report.teller import Teller
from dsv4_mlx.device.command_buffers import LIMITS

ROOT = Path(__file__).parents[2]

FUNCTIONS = {
    "machine": "facts:run",
    "speeds": "speeds:run",
    "kernel": "kernel_cases:run",
    "again": "kernel_cases:run_again",
    "nano": "nano_logits:run",
    "decode": "layers:decode",
    "prefill": "layers:prefill",
    "peer": "peer:run",
    "ranks": "ranks:run",
    "streaming": "streaming:run",
    "heat": "layers:heat",
}
"""What a part runs, `file:function` of parts/, by the first word of its name."""

EXACT, WIDE = {"MLX_ENABLE_TF32": "0"}, {"MLX_ENABLE_TF32": "1"}
"""MLX multiplies float32 as TF32 on some GPUs unless it is told not to."""
_MODEL_LIMIT_S = 900.0


@dataclass(frozen=True)
class Part:
    """One part: `name` is a function's and, after a colon, what it is told; see `FUNCTIONS`.

    `environment` goes on top of the report's own; after `limit_s` seconds the part is ended.
    `long` parts are those that `--quick` leaves out.
    """

    name: str
    limit_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    long: bool = False

    def command(self, options: Sequence[str]) -> list[str]:
        """The process of this part."""
        return [sys.executable, "-m", "benchmarks.report", "--part", self.name, *options]

    def variables(self) -> dict[str, str]:
        """The environment of that process, which finds our packages from any folder."""
        places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(places), **self.environment}


def first() -> Part:
    """What is known before anything else can be planned."""
    return Part("machine", 120.0)


def kernels(names: Sequence[str]) -> Iterator[Part]:
    """One part per kernel: a fault in one hides nothing of the others."""
    for name in names:
        yield Part(f"kernel:{name}", 600.0, EXACT)


def models(backend: str) -> Iterator[Part]:
    """Whole models, under MLX's own limits of a command buffer and under ours; memory is wired on
    a Mac alone."""
    wired = backend == "metal"
    yield Part("nano", 300.0, EXACT)
    yield Part("nano:tf32", 300.0, WIDE)
    if backend != "cpu":  # there MLX would compile C++ for minutes
        yield Part("nano:replayed", 300.0, EXACT)
    yield Part("ranks", 300.0, EXACT)
    for memory in ("unwired", "wired")[: 1 + wired]:
        yield Part(f"decode:default,{memory}", _MODEL_LIMIT_S, EXACT, long=True)
        yield Part(f"decode:ours,{memory}", _MODEL_LIMIT_S, {**EXACT, **LIMITS}, long=True)
    how = "ours,wired" if wired else "ours,unwired"
    yield Part(f"prefill:{how}", _MODEL_LIMIT_S, {**EXACT, **LIMITS}, long=True)
    yield Part(f"prefill:{how},tf32", _MODEL_LIMIT_S, {**WIDE, **LIMITS}, long=True)
    if backend != "cuda":  # whose memory no file can be read into
        yield Part("streaming", _MODEL_LIMIT_S, {**EXACT, **LIMITS}, long=True)
    yield Part(f"peer:{how}", _MODEL_LIMIT_S, LIMITS, long=True)
    yield Part(f"heat:{how}", _MODEL_LIMIT_S, {**EXACT, **LIMITS}, long=True)


Plan = Callable[[str, Sequence[str], Callable[[], Sequence[str]]], Iterator[Part]]
"""`planned`, or another one of a test."""


def planned(
    backend: str, names: Sequence[str], sound: Callable[[], Sequence[str]]
) -> Iterator[Part]:
    """All parts after the first, in their order; `sound` tells which of the kernels `names` were
    right, once they have run."""
    yield Part("speeds", 300.0, EXACT)
    yield Part("speeds:tf32", 120.0, WIDE)
    yield from kernels(names)
    if found := sound():
        yield Part(f"again:{','.join(found)}", 600.0, EXACT)
    yield from models(backend)


def function(name: str) -> Callable[[Teller, Setting], None]:
    """What the part of this name runs; ValueError for one that is not there."""
    kind = name.partition(":")[0]
    if kind not in FUNCTIONS:
        raise ValueError(f"expected a part out of {', '.join(FUNCTIONS)} but found {kind!r}")
    module, _, attribute = FUNCTIONS[kind].partition(":")
    found: Callable[[Teller, Setting], None] = getattr(
        import_module(f"benchmarks.report.parts.{module}"), attribute
    )
    return found


def choices(name: str) -> tuple[str, ...]:
    """What a part's name says after its colon."""
    return tuple(filter(None, name.partition(":")[2].split(",")))
