"""The report from its arguments to an exit status, and a part of it as a process of its own."""

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from benchmarks import report
from benchmarks.report import children, page, schedule, teller, verdict
from benchmarks.report.children import Outcome, Stopped, Wait
from benchmarks.report.kept import Kept
from benchmarks.report.schedule import Part

NO_GPU = (
    "This machine has no GPU that MLX can use, so there is nothing to report; run it on a Mac, or "
    "on Linux with an NVIDIA card and its driver (nvidia-smi)."
)
INTERRUPTED = 130


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; those of a part are the report's own."""
    assert report.__doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=report.__doc__.splitlines()[0]
    )
    parser.add_argument("--backend", default="auto", choices=("auto", "metal", "cuda", "cpu"))
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the files")
    parser.add_argument(
        "--quick", action="store_true", help="without the layers of V4-Flash, which take minutes"
    )
    parser.add_argument("--only", default="", help="parts by name or first word, joined by +")
    parser.add_argument("--rounds", type=int, help="rounds of each timing")
    parser.add_argument(
        "--small", action="store_true", help="sizes for trying the report itself, on a CPU"
    )
    parser.add_argument("--part", help="do this part and tell it as JSON lines; see schedule.py")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """A part, or the whole report; 1 without a GPU or where something is wrong."""
    options = parsed(arguments)
    return run_part(options) if options.part else whole(options)


def run_part(options: argparse.Namespace) -> int:
    """Do one part here."""
    from benchmarks.report.setting import Setting
    from benchmarks.report.sizes import FULL, SMALL

    mouth = teller.on_standard_output(options.out / "report-texts")
    sizes = SMALL if options.small else FULL
    if options.rounds:
        sizes = replace(sizes, rounds=options.rounds)
    try:
        do = schedule.function(options.part)
        do(mouth, Setting(options.backend, sizes, schedule.choices(options.part)))
    except Exception as error:
        print(teller.placed(error), file=sys.stderr)
        return 1
    return 0


def whole(
    options: argparse.Namespace,
    plan: schedule.Plan = schedule.planned,
    first: Part | None = None,
    wait: Wait = children.readable,
) -> int:
    """Run all parts, keep and show what they tell."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    told = children.run(
        *_asked(first or schedule.first(), options, options.backend), lambda _: None, wait
    )
    machine = verdict.rows_of(told.rows, "machine")
    if message := _nothing_to_do(told, options.backend):
        print(message, file=sys.stderr)
        return 1
    kept = Kept(options.out, _command(options), page.markdown)
    kept.heard(told)
    kept.show()
    names = machine[0]["kernels"] if machine else []
    backend = machine[0]["backend"] if machine else options.backend
    try:
        for part in plan(backend, names, lambda: verdict.sound(kept.found)):
            if _wanted(part, options):
                print(f"{part.name[:40]:40} ", end="", flush=True)
                outcome = children.run(*_asked(part, options, backend), kept.heard, wait)
                print(_in_a_line(outcome), flush=True)
                kept.show()
    except (Stopped, KeyboardInterrupt):
        kept.show()
        print(f"\nstopped; what was learnt is in {kept.page} and {kept.data}")
        return INTERRUPTED
    with suppress(OSError):
        kept.texts.rmdir()  # where nothing failed it is empty
    print(f"\n{verdict.sentence(kept.found)}\n\nwrote {kept.page} and {kept.data}")
    return 0 if not verdict.problems(kept.found) else 1


def _nothing_to_do(told: Outcome, backend: str) -> str:
    """Why there is no report; nothing where there is one."""
    if missing := verdict.rows_of(told.rows, "missing"):
        return str(missing[0]["message"])
    machine = verdict.rows_of(told.rows, "machine")
    return NO_GPU if machine and machine[0]["backend"] == "cpu" and backend == "auto" else ""


def _asked(
    part: Part, options: argparse.Namespace, backend: str
) -> tuple[str, list[str], dict[str, str], float]:
    """Name, command, environment and limit of a part."""
    words = ["--backend", backend, "--out", str(options.out.absolute())]
    words += ["--small"] if options.small else []
    words += ["--rounds", str(options.rounds)] if options.rounds else []
    return part.name, part.command(words), part.variables(), part.limit_s


def _wanted(part: Part, options: argparse.Namespace) -> bool:
    if options.quick and part.long:
        return False
    only = [word for word in options.only.split("+") if word] or [part.name]
    return part.name in only or part.name.partition(":")[0] in only


def _in_a_line(outcome: Outcome) -> str:
    failed = len(verdict.rows_of(outcome.rows, "failed"))
    words = outcome.state if outcome.state != "done" or not failed else f"{failed} failed"
    return f"{words}, {outcome.seconds:,.1f} s"


def _command(options: argparse.Namespace) -> str:
    words = ["python -m benchmarks.report", f"--backend {options.backend}"]
    words += [f"--{name}" for name in ("quick", "small") if getattr(options, name)]
    words += [
        f"--{name} {value}" for name in ("only", "rounds") if (value := getattr(options, name))
    ]
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
