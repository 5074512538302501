"""`python -m benchmarks.ablations STATE`: train what is missing, one run at a time.

About fifteen minutes a run on one core. Stopped or killed, the same command goes on; with `--all`
it trains every arm with the first seed, then every arm with the next, and skips finished runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dsv4_mlx.errors import Dsv4Error, UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when all asked runs are finished, 1 for a mistake, 130 for a signal."""
    options = _parser().parse_args(arguments)
    # One core and a fast BLAS, both decided before anything imports mlx.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from dsv4_mlx.blas import ensure_fast_blas

    ensure_fast_blas()
    try:
        return 0 if _runs(options) else 130
    except Dsv4Error as error:
        print(f"{error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablations", description="Measure parts of the architecture."
    )
    parser.add_argument("state", metavar="STATE", type=Path, help="folder for unfinished runs")
    parser.add_argument("--arm", help="one arm; `--list` names them")
    parser.add_argument("--seed", type=int, default=0, help="its seed (default 0)")
    parser.add_argument("--all", action="store_true", help="every arm and seed without a row")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of `--all` (default 3)")
    parser.add_argument("--steps", type=int, help="updates of a run (default: those of the plan)")
    parser.add_argument("--list", action="store_true", help="name the arms and what is finished")
    return parser


def _runs(options: argparse.Namespace) -> bool:
    from benchmarks.ablations.arms import ARMS, arm
    from benchmarks.ablations.run import Plan, finished, run
    from dsv4_mlx.training.progress import RunProgress

    plan = Plan(**({} if options.steps is None else {"steps": options.steps}))
    if options.list:
        for one in ARMS.values():
            seeds = [str(s) for s in range(options.seeds) if finished(one, s, plan)]
            print(f"{one.name}: {one.says}; finished: {', '.join(seeds) or 'none'}")
        return True
    if options.all == (options.arm is not None):
        raise UsageError("expected either --arm NAME or --all; `--list` names the arms.")
    asked = [(arm(options.arm), options.seed)] if options.arm else []
    asked += [(one, seed) for seed in range(options.seeds) for one in ARMS.values()] * options.all
    for one, seed in asked:
        if finished(one, seed, plan):
            print(f"{one.name}, seed {seed}: finished before", flush=True)
            continue
        print(f"{one.name}, seed {seed}", flush=True)
        command = f"python -m benchmarks.ablations STATE --arm {one.name} --seed {seed}"
        command += f" --steps {options.steps}" * (options.steps is not None)
        folder = options.state / f"{one.name}-{seed}-{plan.design(one)}"
        with RunProgress(plan.steps, tokens=plan.rows * plan.length) as progress:
            if not run(folder, one, seed, plan, command, progress):
                return False
    return True


if __name__ == "__main__":
    sys.exit(main())
