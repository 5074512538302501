"""`python -m dsv4_mlx.training.evaluate MODEL`: percentages of each ability on held-out tasks.

Every kind is asked in both modes; sums are told apart by digits and carries, recall by length.
`--without` repeats it with a part of attention switched off. `--csv FILE` appends a row for every
line that is printed.
"""

from __future__ import annotations

import argparse
import csv
import random
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.files.paths import user_path
from dsv4_mlx.training.data.recall import LENGTHS, recall_task
from dsv4_mlx.training.data.task import Kind, Task
from dsv4_mlx.training.data.tasks import MAKERS, tasks
from dsv4_mlx.training.evaluation import Outcome, Score

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.model.v4 import Model
    from dsv4_mlx.training.switches import SwitchablePart

MTP = "mtp"
WITHOUT = ("window", "csa", "hca", "selection")
MODES: tuple[ThinkingMode, ...] = get_args(ThinkingMode)


@dataclass(frozen=True)
class AbilityRow:
    """One line of the report, and one row of the CSV file."""

    date: str
    model: str
    kind: str
    mode: str
    without: str
    group: str
    count: int
    right: int
    percent: str
    seed: int
    command: str


def held_out_tasks(kind: Kind, mode: ThinkingMode, options: argparse.Namespace) -> list[Task]:
    """`count` tasks of a kind; of recall as many for each length."""
    if kind != "recall":
        return list(islice(tasks(kind, "held_out", options.seed, mode), options.count))
    found = []
    for length in options.lengths:
        rng = random.Random(f"recall/{length}/{options.seed}")
        found += [recall_task(rng, "held_out", mode, length) for _ in range(options.count)]
    return found


def measured(
    model: Model, tokenizer: Tokenizer, options: argparse.Namespace
) -> Iterator[tuple[str, str, str, Score]]:
    """(kind, mode, what is switched off, score) for all that was asked for."""
    from dsv4_mlx.training.acceptance import acceptance
    from dsv4_mlx.training.evaluation import outcomes, scores
    from dsv4_mlx.training.switches import without

    parts: list[SwitchablePart | None] = [None, *options.without]
    for kind in options.kind:
        for mode in options.mode:
            if kind == MTP:
                for own in MAKERS:
                    asked = list(islice(tasks(own, "held_out", options.seed, mode), options.count))
                    right, count = acceptance(model, tokenizer, asked)
                    yield kind, mode, "", Score(f"of={own}", count, right)
                continue
            asked = held_out_tasks(kind, mode, options)
            for part in parts:
                with without(model, part):
                    found = list(outcomes(model, tokenizer, asked, rows=options.rows))
                if options.show and part is None:
                    _show(found)
                for score in scores(found):
                    yield kind, mode, part or "", score


def _show(found: Sequence[Outcome]) -> None:
    """What was answered wrongly, the end of the question before it."""
    for outcome in (outcome for outcome in found if not outcome.right):
        asked = str(outcome.task.messages[-1]["content"])[-200:]
        print(f"wrong: {asked!r}\n   said {outcome.reply!r}\n   wanted {outcome.task.answer!r}")


def write_rows(path: Path, rows: Sequence[AbilityRow]) -> None:
    """Append rows to a CSV file, which gets its header when it is new."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(AbilityRow)], lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(map(asdict, rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dsv4_mlx.training.evaluate",
        description="Ask a model held-out tasks of every kind and count the right answers.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", type=user_path, help="checkpoint folder")
    kinds = [*MAKERS, MTP]
    add("--kind", nargs="+", choices=kinds, default=kinds, help="which abilities (default: all)")
    add("--mode", nargs="+", choices=MODES, default=list(MODES), help="default: both")
    add("--count", type=int, default=100, help="tasks of a kind and mode (default 100)")
    add("--seed", type=int, default=0, help="which tasks (default 0)")
    add("--lengths", nargs="+", type=int, default=list(LENGTHS), help="of recall, in tokens")
    add("--without", nargs="+", choices=WITHOUT, default=[], help="parts to switch off in turn")
    add("--rows", type=int, default=32, help="tasks computed at a time (default 32)")
    add("--csv", metavar="FILE", type=user_path, help="append a row for every line")
    add("--show", action="store_true", help="print wrong answers")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)

    # Before anything imports mlx: the BLAS it brings on Linux is many times slower.
    from dsv4_mlx.blas import ensure_fast_blas

    ensure_fast_blas()
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "dsv4_mlx.training.evaluate", *given])
    try:
        _evaluate(options, command)
    except (Dsv4Error, OSError) as error:
        sys.exit(f"error: {error}")


def _evaluate(options: argparse.Namespace, command: str) -> None:
    from dsv4_mlx.loading import load

    model, tokenizer = load(options.model)
    date = datetime.now(UTC).date().isoformat()
    for kind, mode, part, score in measured(model, tokenizer, options):
        off = f" without {part}" if part else ""
        name = f"{kind} {mode}{off} {score.group}".strip()
        print(
            f"{name:<52} {score.right:>5} of {score.count:>5}  {score.percent:5.1f} %", flush=True
        )
        if options.csv:
            row = AbilityRow(
                date=date,
                model=options.model.name,
                kind=kind,
                mode=mode,
                without=part,
                group=score.group,
                count=score.count,
                right=score.right,
                percent=f"{score.percent:.1f}",
                seed=options.seed,
                command=command,
            )
            write_rows(options.csv, [row])


if __name__ == "__main__":
    main()
