"""Compare what two checkouts do, on this machine, in one go.

    python -m benchmarks.unchanged BEFORE AFTER [--only AREA,...] [--python PATH]

BEFORE and AFTER are folders with two commits. Each is asked by its own interpreter, FOLDER/.venv's
unless --python names one for both; files may have moved between the two. What the comparison reads
(checkpoints, cache files, conversations) is written once, by BEFORE. One line per fact: `same`, or
the difference, or a measure with its ratio. The exit status is 1 when a fact differs.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.record import machine
from benchmarks.unchanged.areas import AREAS, written
from benchmarks.unchanged.checkouts import Checkout
from benchmarks.unchanged.facts import Line, compared
from benchmarks.unchanged.measures import MEASURES


def lines(before: Checkout, after: Checkout, inputs: Path, areas: Sequence[str]) -> Iterator[Line]:
    """Every line of these areas, as soon as it is known."""
    given = written(before, inputs, set(areas))
    for area in areas:
        if area in AREAS:
            facts = [AREAS[area](checkout, given) for checkout in (before, after)]
            yield from compared(area, *facts)
        else:
            yield from MEASURES[area](before, after, given)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    known = (*AREAS, *MEASURES)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="folder of the commit before")
    parser.add_argument("after", type=Path, help="folder of the commit after")
    parser.add_argument("--only", default=",".join(known), help="areas, out of the default")
    parser.add_argument("--python", type=Path, help="an interpreter for both checkouts")
    options = parser.parse_args(arguments)
    options.areas = options.only.split(",")
    if unknown := set(options.areas) - set(known):
        parser.error(f"expected areas out of {', '.join(known)}, found {', '.join(unknown)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and say by the exit status whether anything differs."""
    options, differences = parsed(arguments), 0
    with tempfile.TemporaryDirectory(prefix="unchanged-") as name:
        scratch = Path(name)
        before = _checkout(options.before, options.python, scratch / "before")
        after = _checkout(options.after, options.python, scratch / "after")
        print(machine(), flush=True)
        for line in lines(before, after, scratch / "inputs", options.areas):
            print(line.text, flush=True)
            differences += line.is_difference
    print(f"{differences} differences")
    return int(differences > 0)


def _checkout(folder: Path, python: Path | None, scratch: Path) -> Checkout:
    scratch.mkdir()
    interpreter = python or folder / ".venv" / "bin" / "python"
    return Checkout(folder.resolve(), interpreter.absolute(), scratch)


if __name__ == "__main__":
    sys.exit(main())
