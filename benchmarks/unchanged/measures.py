"""What is measured and not judged: start-up, and the host's work per token."""

import statistics
from collections.abc import Iterator

from benchmarks.unchanged.areas import Inputs
from benchmarks.unchanged.checkouts import Checkout
from benchmarks.unchanged.facts import Line, measured

PAIRS = 7
STARTS = {
    "--version": ("--version",),
    "--help": ("--help",),
    "an answer": ("-p", "Hello", "--think", "none", "--max-tokens", "4"),
}


def start_up(before: Checkout, after: Checkout, inputs: Inputs) -> Iterator[Line]:
    """Modules imported, and processor time: medians of pairs that alternate."""
    for name, words in STARTS.items():
        imported = [_imported(checkout, words) for checkout in (before, after)]
        yield measured("start-up", f"{name}, modules", *map(len, imported))
        new = sorted(_others(imported[1]) - _others(imported[0]))
        if new:
            yield Line(f"measure    start-up: {name}, new modules of others: {', '.join(new)}")
        spent: dict[Checkout, list[float]] = {before: [], after: []}
        for _ in range(PAIRS):
            for checkout, seconds in spent.items():
                seconds.append(checkout.command("-m", "cli", *words).processor_s)
        medians = [statistics.median(seconds) for seconds in spent.values()]
        yield measured("start-up", f"{name}, processor time", *medians, unit=" s")


def host_work(before: Checkout, after: Checkout, inputs: Inputs) -> Iterator[Line]:
    """Calls and bytecodes per decoded token."""
    for model in ("tiny", "nano"):
        asked = {"folder": inputs.checkpoints[model], "kv": "compact"}
        counts = [checkout.probe("host", "work", **asked) for checkout in (before, after)]
        for name in counts[0]:
            yield measured("host", f"{model}, {name} per token", counts[0][name], counts[1][name])


MEASURES = {"start-up": start_up, "host": host_work}


def _imported(checkout: Checkout, words: tuple[str, ...]) -> set[str]:
    """Names of all modules that a run of the program imports."""
    lines = checkout.command("-X", "importtime", "-m", "cli", *words).stderr.splitlines()
    rows = [line for line in lines if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip() for line in rows}


def _others(modules: set[str]) -> set[str]:
    """Modules that are not ours."""
    ours = ("dsv4_mlx", "metal_kernels", "cli", "convert", "__editable__")
    return {name for name in modules if not name.startswith(ours)}
