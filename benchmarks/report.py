"""One page about this machine: do the kernels compile, are they right, how fast are they?

    make report        (python -m benchmarks.report [--backend auto] [--out FOLDER] [--quick])

On a Mac or with an NVIDIA card: compiles every kernel with the real compiler, compares it with its
reference on all cases of the registry, times it, lets the embedded model answer on the GPU and on
the CPU, and decodes a synthetic 4-layer Flash. Writes report.md and report.json, meant to be pasted
into an issue. Nothing in it is estimated: what was not run is not there. `--quick` leaves the
4-layer Flash out, whose checkpoint (1.6 GB) takes minutes to write.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from benchmarks import kernels
from benchmarks.record import device, machine
from dsv4_mlx.sizing.costs import Costs
from metal_kernels import registry
from metal_kernels.backend import MissingBackend
from metal_kernels.contract import Kernel

if TYPE_CHECKING:
    from dsv4_mlx.model.v4 import Model

NO_GPU = (
    "This machine has no GPU that MLX can use, so there is nothing to report; run it on a Mac, or "
    "on Linux with an NVIDIA card and its driver (nvidia-smi)."
)
QUESTION = "What is DeepSeek-V4?"
GREEDY_TOKENS = 32
FLASH_TOKENS = 24
PROMPT = 128


def compared(kernel: Kernel, operation: Callable[..., Any]) -> dict[str, Any]:
    """Every case of a kernel on this backend against its reference on the CPU."""
    from tests.kernels.compare import assert_equals_reference

    failures: dict[str, str] = {}
    for case in kernel.cases:
        try:
            assert_equals_reference(kernel, operation, case)
        except Exception as error:  # a text that does not compile, or values that differ
            failures[case.id] = _short(error)
    return {"cases": len(kernel.cases), "failures": failures}


def _short(error: Exception) -> str:
    """The first lines of a message; compilers write pages."""
    text = f"{type(error).__name__}: {error}".strip()
    return "\n".join(text.splitlines()[:12])[:1500]


def all_compared(plan: registry.KernelPlan) -> dict[str, dict[str, Any]]:
    """`compared` for every kernel that has an implementation of its own here."""
    return {
        name: {"implementation": plan.chosen[name], **compared(kernel, getattr(plan.ops, name))}
        for name, kernel in registry.kernels().items()
        if plan.chosen[name] != "reference" or plan.backend == "cpu"
    }


def nano(backend: str) -> dict[str, Any]:
    """The embedded model: greedy tokens on this backend and on the CPU, and its speed."""
    from dsv4_mlx.loading import load

    nano_folder = Path(__file__).parents[1] / "dsv4_mlx" / "nano"
    told = {}
    for each in dict.fromkeys((backend, "cpu")):
        model, tokenizer = load(nano_folder, backend=each)
        told[each] = _greedy(model, tokenizer.encode(QUESTION), GREEDY_TOKENS)
    ids, seconds = told[backend]
    return {
        "same_tokens_as_cpu": ids == told["cpu"][0],
        "tokens": len(ids),
        "median_ms": round(statistics.median(seconds) * 1e3, 3),
    }


def _greedy(model: "Model", prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Greedy ids after `prompt` and the seconds of each."""
    from dsv4_mlx import cache as caches

    cache = model.make_cache()
    token = model.last_logits(mx.array([prompt]), cache).argmax(-1)[None]
    mx.eval(token, caches.evaluated(cache))
    ids, seconds = [], []
    for _ in range(count):
        ids.append(int(token.item()))
        started = time.perf_counter()
        token = model.last_logits(token, cache).argmax(-1)[None]
        mx.eval(token, caches.evaluated(cache))
        seconds.append(time.perf_counter() - started)
    return ids, seconds


def small_flash(backend: str, folder: Path | None = None) -> dict[str, Any]:
    """Four layers with Flash's dimensions: time per token against the bytes that it reads."""
    from benchmarks.decode import CONFIG
    from dsv4_mlx.loading import load_model
    from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
    from dsv4_mlx.weights.checkpoint import open_checkpoint

    folder = folder or Path(tempfile.gettempdir()) / "dsv4-flash-4-layers"
    if not (folder / "config.json").exists():
        write_tiny_checkpoint(folder, CONFIG, shards=4, tokenizer=False)
    model = load_model(
        open_checkpoint(folder),
        backend=backend,
    )
    mx.reset_peak_memory()
    prompt = list(range(3, 3 + PROMPT))
    _, seconds = _greedy(model, prompt, FLASH_TOKENS)
    median, nbytes = statistics.median(seconds), Costs(model.config).bytes_per_token()
    return {
        "median_ms": round(median * 1e3, 3),
        "weight_bytes_per_token": nbytes,
        "gb_per_s": round(nbytes / median / 1e9, 2),
        "peak_bytes": mx.get_peak_memory(),
    }


def gathered(backend: str, *, quick: bool, rounds: int = 5) -> dict[str, Any]:
    """The whole report as plain values."""
    plan = registry.plan(backend)
    mx.set_default_device(mx.cpu if plan.backend == "cpu" else mx.gpu)
    report: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "device": device(),
        "backend": plan.backend,
        "system": platform.platform(),
        "versions": {name: version(name) for name in ("dsv4-mlx", "mlx")},
        "kernels": all_compared(plan),
    }
    report["references"] = [n for n, how in plan.chosen.items() if how == "reference"]
    broken = {name for name, found in report["kernels"].items() if found["failures"]}
    sound = [name for name in report["kernels"] if name not in broken]
    report["timings"] = list(kernels.rows(plan.backend, sound, rounds)) if sound else []
    report["nano"] = _tried(lambda: nano(plan.backend))
    if not quick:
        report["flash_4_layers"] = _tried(lambda: small_flash(plan.backend))
    return report


def _tried(part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part of the report, or why it failed: one fault must not hide the rest."""
    try:
        return part()
    except Exception as error:
        return {"failed": _short(error)}


def is_good(report: dict[str, Any]) -> bool:
    """Whether everything that was run came out as it should."""
    parts = [report["nano"], report.get("flash_4_layers", {})]
    return (
        not any(found["failures"] for found in report["kernels"].values())
        and not any("failed" in part for part in parts)
        and report["nano"].get("same_tokens_as_cpu") is True
    )


def markdown(report: dict[str, Any]) -> str:
    """One page for people."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        f"# dsv4-mlx on {report['device']} ({report['backend']})",
        "",
        f"{report['date']}; {report['machine']}; {report['system']}; {versions}. "
        + ("Everything agrees." if is_good(report) else "**Something is wrong, see below.**"),
        "",
        "| kernel | size | cases | time | GB/s | GFLOP/s |",
        "|---|---|---|---|---|---|",
        *_kernel_lines(report),
    ]
    if report["references"]:
        lines += ["", f"Not written for this backend yet: {', '.join(report['references'])}."]
    lines += ["", *_model_lines(report), *_failure_lines(report)]
    return "\n".join(lines) + "\n"


def _kernel_lines(report: dict[str, Any]) -> list[str]:
    lines = []
    for name, found in report["kernels"].items():
        right = found["cases"] - len(found["failures"])
        cases = f"{right} of {found['cases']} right"
        timings = [row for row in report["timings"] if row["kernel"] == name]
        for row in timings:
            lines.append(
                f"| {name} | {row['size']} | {cases} | {row['median_us']:,.1f} µs | "
                f"{row['gb_per_s']} | {row['gflop_per_s'] or ''} |"
            )
        if not timings:
            lines.append(f"| {name} | | {cases} | not timed | | |")
    return lines


def _model_lines(report: dict[str, Any]) -> list[str]:
    found, lines = report["nano"], []
    if "failed" not in found:
        same = "the same greedy tokens as" if found["same_tokens_as_cpu"] else "OTHER tokens than"
        lines.append(f"nano: {same} on the CPU, {found['median_ms']} ms per token.")
    flash = report.get("flash_4_layers")
    if flash and "failed" not in flash:
        lines.append(
            f"Four layers with Flash's dimensions: {flash['median_ms']} ms per token, "
            f"{flash['gb_per_s']} GB/s of weights ({flash['weight_bytes_per_token'] / 1e9:.3f} GB "
            f"per token), peak {flash['peak_bytes'] / 2**30:.2f} GiB."
        )
    return lines


def _failure_lines(report: dict[str, Any]) -> list[str]:
    failures = [
        (f"{name} [{case}]", text)
        for name, found in report["kernels"].items()
        for case, text in found["failures"].items()
    ]
    for name in ("nano", "flash_4_layers"):
        if "failed" in report.get(name, {}):
            failures.append((name, report[name]["failed"]))
    return [line for where, text in failures for line in ("", f"## {where}", "```", text, "```")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, say where; 1 without a GPU or where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="auto", choices=("auto", "metal", "cuda", "cpu"))
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the two files")
    parser.add_argument("--quick", action="store_true", help="without the 4-layer Flash")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each timing")
    options = parser.parse_args(arguments)
    try:
        backend = registry.plan(options.backend).backend
    except MissingBackend as error:
        print(error, file=sys.stderr)
        return 1
    if backend == "cpu" and options.backend == "auto":
        print(NO_GPU)
        return 1
    report = gathered(backend, quick=options.quick, rounds=options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (options.out / "report.md").write_text(markdown(report), encoding="utf-8")
    print(f"wrote {options.out / 'report.md'} and {options.out / 'report.json'}")
    return 0 if is_good(report) else 1


if __name__ == "__main__":
    sys.exit(main())
