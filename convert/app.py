"""The command: arguments, what goes to which stream, exit status."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from convert.plan import RECIPES, plan_conversion
from convert.progress import Progress, progress_for
from convert.report import facts, page, size_text
from convert.writer import require_empty, write
from dsv4_mlx import __version__
from dsv4_mlx.checkpoint import open_checkpoint
from dsv4_mlx.errors import Dsv4Error, UsageError

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one folder; 0 when DST is whole, 1 on an error, 2 on wrong usage, 130 on Ctrl-C."""
    options = _parser().parse_args(argv)
    progress = progress_for(options.json)
    try:
        _convert(options, progress)
        return 0
    except UsageError as error:
        message, status = str(error), EXIT_USAGE
    except Dsv4Error as error:
        message, status = str(error), EXIT_ERROR
    except OSError as error:
        message, status = _disk_sentence(error), EXIT_ERROR
    except KeyboardInterrupt:
        message = f"Interrupted; {options.dst} is unfinished, continue it with --resume."
        status = EXIT_INTERRUPTED
    finally:
        progress.end()
    progress.say(f"error: {message}", "error", text=message)
    return status


def _convert(options: argparse.Namespace, progress: Progress) -> None:
    source, destination = options.src, options.dst
    if not options.resume and not options.dry_run:
        require_empty(destination)
    plan = plan_conversion(open_checkpoint(source), options.recipe)
    if options.dry_run:
        data = facts(plan, destination)
        print(json.dumps(data, indent=2) if options.json else "\n".join(page(plan, destination)))
        return
    count, aside = len(plan.parameters.parameters), len(plan.parameters.set_aside)
    progress.say(
        f"{source} -> {destination}: {count} parameters, {aside} draft tensors kept aside, "
        f"{size_text(plan.nbytes)}",
        "plan",
        parameters=count,
        set_aside=aside,
        bytes=plan.nbytes,
    )
    write(plan, destination, progress, resume=options.resume)
    progress.say(f"done: {destination}", "done", destination=str(destination))


def _disk_sentence(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return (
        f"The conversion stopped: {error.strerror or error}{where}; remove the cause and continue "
        "with --resume."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert",
        description="Turn the official DeepSeek-V4 files into a folder that MLX loads directly.",
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="the official folder")
    parser.add_argument("dst", metavar="DST", type=Path, help="the new folder, empty or absent")
    recipes = "; ".join(f"{name}: {meaning}" for name, meaning in RECIPES.items())
    parser.add_argument("--recipe", choices=list(RECIPES), default="native", help=recipes)
    parser.add_argument(
        "--dry-run", action="store_true", help="print sizes, disk and memory, and write nothing"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue where an earlier run was stopped"
    )
    parser.add_argument("--json", action="store_true", help="one JSON event per line on stdout")
    parser.add_argument("--version", action="version", version=f"dsv4-mlx {__version__}")
    return parser
