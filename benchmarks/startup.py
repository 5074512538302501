"""Seconds until `dsv4-chat` shows something, against its budgets.

    python -m benchmarks.startup [--model PATH] [--rounds N]

Three moments: the last line of --version, the prompt on a terminal, the first piece of an answer.
Medians of whole processes, the file cache warm; the row goes to results/startup.csv.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import pexpect

from benchmarks.record import record

COMMAND = [sys.executable, "-m", "cli"]
BUDGETS_S = {"version": 0.4, "prompt": 0.7, "first token": 2.0}


def version(model: list[str]) -> float:
    """Seconds of `dsv4-chat --version`, to its end."""
    start = time.perf_counter()
    subprocess.run([*COMMAND, "--version"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def prompt(model: list[str]) -> float:
    """Seconds of `dsv4-chat` on a terminal, until its prompt is drawn."""
    program, *arguments = [*COMMAND, *model]
    variables = os.environ | {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"}
    start = time.perf_counter()
    child = pexpect.spawn(program, arguments, env=variables, dimensions=(24, 80))
    child.expect_exact(">")
    seconds = time.perf_counter() - start
    child.close(force=True)
    return seconds


def first_token(model: list[str]) -> float:
    """Seconds of `dsv4-chat -p`, until the first piece of reasoning or answer."""
    start = time.perf_counter()
    command = [*COMMAND, *model, "-p", "Hello", "--max-tokens", "8"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as child:
        assert child.stdout is not None
        if not child.stdout.read(1):
            raise SystemExit("dsv4-chat ended before it answered")
        seconds = time.perf_counter() - start
        child.kill()
    return seconds


MOMENTS: dict[str, Callable[[list[str]], float]] = {
    "version": version,
    "prompt": prompt,
    "first token": first_token,
}


def measure(moment: Callable[[list[str]], float], model: list[str], rounds: int) -> float:
    """Median seconds; one run before them fills the file cache."""
    moment(model)
    return statistics.median(moment(model) for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="PATH", help="default: the embedded model")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = ["--model", options.model] if options.model else []
    row: dict[str, str] = {}
    print(f"{'':12} {'seconds':>8} {'budget':>8}")
    for name, budget_s in BUDGETS_S.items():
        seconds = measure(MOMENTS[name], model, options.rounds)
        row[name] = f"{seconds:.3f}"
        print(f"{name:12} {seconds:8.2f} {budget_s:8.2f}{'' if seconds <= budget_s else '  over'}")
    command = f"python -m benchmarks.startup --rounds {options.rounds}"
    record("startup", command, [row], list(BUDGETS_S))


if __name__ == "__main__":
    main()
