"""`python -m dsv4_mlx.training.post STAGE RUN`: SFT and GRPO of experts, distillation.

Interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if vars(options).get("workers", 1) > 1:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    # Before anything imports mlx: with the BLAS it brings on Linux this would take days.
    from dsv4_mlx.blas import ensure_fast_blas

    ensure_fast_blas()
    from dsv4_mlx.errors import Dsv4Error
    from dsv4_mlx.training import native

    if (line := native.notice()) is not None:
        print(line, file=sys.stderr)
    try:
        return 0 if _started(options) else 3
    except Dsv4Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dsv4_mlx.training.post",
        description="Post-train a small model: experts by SFT and GRPO, then one model of them.",
        epilog="The same command goes on where a run stopped; it ends with status 3 where time or "
        "a signal ended it before its last step.",
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, what in (
        ("sft", "make an expert of a base by lessons of its kinds"),
        ("grpo", "train an expert further by verifiable rewards"),
        ("distill", "make one model of the experts, on its own answers"),
    ):
        stage = stages.add_parser(name, help=what, description=what.capitalize() + ".")
        stage.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
        stage.add_argument(
            "--from", dest="start", metavar="FOLDER", type=Path, required=True,
            help="the model to start from, in the official format",
        )  # fmt: skip
        stage.add_argument("--steps", type=int, help="updates")
        stage.add_argument("--hours", type=float, help="stop after so many hours of this call")
        stage.add_argument("--seed", type=int, help="another seed draws other tasks and answers")
        stage.add_argument("--peak", type=float, metavar="RATE", help="highest learning rate")
        stage.add_argument("--score-every", type=int, metavar="STEPS", help="held-out tasks")
        stage.add_argument("--score-prompts", type=int, metavar="N", help="tasks of each kind")
        stage.add_argument("--max-tokens", type=int, metavar="N", help="tokens of an answer")
        stage.add_argument("--max-prompt", type=int, metavar="N", help="tokens of a prompt")
    own = stages.choices["sft"]
    own.add_argument(
        "--expert", metavar="LESSONS", help="arithmetic, tools, all, or kinds such as recall,help"
    )
    own.add_argument("--rows", type=int, help="rows of a step")
    own.add_argument("--length", type=int, help="tokens of a row")
    own.add_argument(
        "--workers", type=int, metavar="N", default=1,
        help="processes that share each step, one core each; a run keeps its number",
    )  # fmt: skip
    for name in ("grpo", "distill"):
        own = stages.choices[name]
        own.add_argument("--prompts", type=int, help="prompts of a step (distill: per domain)")
    own = stages.choices["grpo"]
    own.add_argument("--expert", choices=("arithmetic", "tools"), help="whose tasks")
    own.add_argument("--group", type=int, help="answers to each prompt")
    own.add_argument("--updates", type=int, help="updates from one batch of answers")
    own.add_argument("--kl-weight", type=float, metavar="WEIGHT", help="of the KL to the start")
    own = stages.choices["distill"]
    own.add_argument(
        "--teacher", action="append", type=_teacher, metavar="DOMAIN=FOLDER", required=True,
        help="who teaches a domain (arithmetic, tools, rest); once for each",
    )  # fmt: skip
    return parser


def _teacher(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected DOMAIN=FOLDER but found {text!r}")
    return name, Path(folder)


def _started(options: argparse.Namespace) -> bool:
    from dsv4_mlx.training import post_training as stages
    from dsv4_mlx.training.stage import AnswerLimits

    given = {name: value for name, value in vars(options).items() if value is not None}
    limits = AnswerLimits(**_own(AnswerLimits, given))
    if options.stage == "sft":
        lessons = stages.SftRecipe(**_own(stages.SftRecipe, given), limits=limits)
        return stages.sft(
            options.run, options.start, lessons, hours=options.hours, workers=options.workers
        )
    if options.stage == "grpo":
        recipe = stages.GrpoRecipe(**_own(stages.GrpoRecipe, given), limits=limits)
        return stages.grpo(options.run, options.start, recipe, hours=options.hours)
    settings = stages.DistillationRecipe(**_own(stages.DistillationRecipe, given), limits=limits)
    teachers = dict(options.teacher)
    return stages.distill(options.run, options.start, teachers, settings, hours=options.hours)


def _own(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """The options that a recipe has by their names."""
    return {one.name: given[one.name] for one in fields(kind) if one.name in given}


if __name__ == "__main__":
    sys.exit(main())
