"""The command: arguments, progress lines on stderr, exit status."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from convert.plan import RECIPES, plan_conversion
from convert.writer import size_text, write
from dsv4_mlx import __version__
from dsv4_mlx.checkpoint import open_checkpoint
from dsv4_mlx.errors import Dsv4Error, UsageError

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one folder; 0 when DST is whole, 1 on an error, 2 on wrong usage, 130 on Ctrl-C."""
    options = _parser().parse_args(argv)
    try:
        _convert(options.src, options.dst, options.recipe)
    except UsageError as error:
        return _fail(str(error), EXIT_USAGE)
    except Dsv4Error as error:
        return _fail(str(error), EXIT_ERROR)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"The conversion stopped: {error.strerror}{where}.", EXIT_ERROR)
    except KeyboardInterrupt:
        return _fail(f"Interrupted; {options.dst} is unfinished.", EXIT_INTERRUPTED)
    return 0


def _convert(source: Path, destination: Path, recipe: str) -> None:
    plan = plan_conversion(open_checkpoint(source), recipe)
    _say(
        f"{source} -> {destination}: {len(plan.parameters.parameters)} parameters, "
        f"{len(plan.parameters.set_aside)} draft tensors kept aside, {size_text(plan.nbytes)}"
    )
    write(plan, destination, _say)
    _say(f"done: {destination}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert",
        description="Turn the official DeepSeek-V4 files into a folder that MLX loads directly.",
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="the official folder")
    parser.add_argument("dst", metavar="DST", type=Path, help="the new folder, empty or absent")
    recipes = "; ".join(f"{name}: {meaning}" for name, meaning in RECIPES.items())
    parser.add_argument("--recipe", choices=list(RECIPES), default="native", help=recipes)
    parser.add_argument("--version", action="version", version=f"dsv4-mlx {__version__}")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _fail(message: str, status: int) -> int:
    _say(f"error: {message}")
    return status
