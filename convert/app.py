"""The command: arguments, what goes to which stream, exit status."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from convert import inspect
from convert.deletion import SOURCE_FILE, open_source
from convert.fetch import fetch
from convert.fit import MEMORIES, fit_sentence, fitting_plan, shipped_plans
from convert.importance import open_importance
from convert.plan import ConversionPlan, plan_conversion
from convert.progress import Progress, progress_for
from convert.recipe import NATIVE, SHIPPED
from convert.report import facts, page, size_text
from convert.shards import MAX_JOBS
from convert.verify import LEVELS, verify
from convert.writer import require_empty, write
from dsv4_mlx import __version__
from dsv4_mlx.errors import Dsv4Error, UsageError

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 on an error, 2 on wrong usage, 130 on Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] and words[0] in _COMMANDS:
        parser, run = _COMMANDS[words[0]]
        return _guarded(parser().parse_args(words[1:]), run)
    return _guarded(_parser().parse_args(words), _convert)


def _guarded(
    options: argparse.Namespace, run: Callable[[argparse.Namespace, Progress], None]
) -> int:
    try:
        return _ended(options, run)
    except BrokenPipeError:
        _silence()
        return EXIT_ERROR


def _ended(options: argparse.Namespace, run: Callable[[argparse.Namespace, Progress], None]) -> int:
    progress = progress_for(options.json)
    try:
        run(options, progress)
        sys.stdout.flush()
        return 0
    except UsageError as error:
        message, status = str(error), EXIT_USAGE
    except Dsv4Error as error:
        message, status = str(error), EXIT_ERROR
    except BrokenPipeError:
        raise  # nobody reads any more
    except OSError as error:
        message, status = _disk_sentence(error), EXIT_ERROR
    except KeyboardInterrupt:
        unfinished = "dst" in options and run is _convert
        rest = f"; {options.dst} is unfinished, continue it with --resume" if unfinished else ""
        message, status = f"Interrupted{rest}.", EXIT_INTERRUPTED
    finally:
        progress.end()
    progress.say(f"error: {message}", "error", text=message)
    return status


def _silence() -> None:
    """Let nothing more be written to a reader that is gone, at exit neither."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(null, stream.fileno())
    os.close(null)


def _convert(options: argparse.Namespace, progress: Progress) -> None:
    source, destination, jobs = options.src, options.dst, _jobs(options.jobs)
    if not options.resume and not options.dry_run:
        require_empty(destination)
    checkpoint, parameters = open_source(source, destination)
    if options.fit:
        plan = fitting_plan(shipped_plans(checkpoint, parameters), options.fit)
        if not (options.dry_run and options.json):
            progress.say(fit_sentence(plan, options.fit), "fit", recipe=plan.recipe.name)
    else:
        plan = plan_conversion(checkpoint, options.recipe, parameters=parameters)
    if options.importance:
        plan = _weighted(plan, options)
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
    write(
        plan,
        destination,
        progress,
        resume=options.resume,
        delete_source=options.delete_source,
        jobs=jobs,
    )
    progress.say(f"done: {destination}", "done", destination=str(destination))


def _weighted(plan: ConversionPlan, options: argparse.Namespace) -> ConversionPlan:
    """The same plan with the importance file; one of another checkpoint is refused."""
    deleting = (options.dst / SOURCE_FILE).exists()  # the source may be gone in part
    source, parameters = plan.source, plan.parameters
    importance = open_importance(options.importance, source, parameters, not deleting)
    return plan_conversion(source, plan.recipe, parameters=parameters, importance=importance)


def _jobs(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MAX_JOBS:
        raise UsageError(f"--jobs is {text!r}, expected a whole number from 1 to {MAX_JOBS}.")
    return int(text)


def _verify(options: argparse.Namespace, progress: Progress) -> None:
    verify(options.dst, options.against, options.level, progress, options.text)


def _inspect(options: argparse.Namespace, progress: Progress) -> None:
    facts = inspect.describe(options.path)
    print(json.dumps(facts, indent=2) if options.json else "\n".join(inspect.page(facts)))


def _calibrate(options: argparse.Namespace, progress: Progress) -> None:
    from convert.calibrate import calibrate

    calibrate(options.src, options.texts, options.output, progress)


def _fetch(options: argparse.Namespace, progress: Progress) -> None:
    fetch(options.repo, options.dst, progress)


def _disk_sentence(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return (
        f"Stopped: {error.strerror or error}{where}; remove the cause and continue, a conversion "
        "with --resume."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert",
        description="Turn the official DeepSeek-V4 files into a folder that MLX loads directly.",
        epilog="Further: `fetch REPO_ID DST`, `calibrate SRC TEXT...`, `verify DST` and `inspect "
        "PATH`; each has a --help.",
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="the official folder")
    parser.add_argument("dst", metavar="DST", type=Path, help="the new folder, empty or absent")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--fit",
        choices=MEMORIES,
        help="take the most exact recipe that runs on a Mac with this memory",
    )
    choice.add_argument(
        "--recipe",
        metavar="NAME",
        default=NATIVE,
        help="how few bits: " + ", ".join(SHIPPED) + " or FILE.toml (default: native, no change)",
    )
    parser.add_argument(
        "--importance",
        metavar="FILE",
        type=Path,
        help="weigh errors of quantized matrices by what `calibrate` measured",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print sizes, disk and memory, and write nothing"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue where an earlier run was stopped"
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        help="convert N matrices at a time (default: the number of cores, at most 4); the files "
        "are the same for any N, memory grows with it",
    )
    parser.add_argument(
        "--delete-source",
        action="store_true",
        help="remove each official shard once all of it is converted and read back equal",
    )
    parser.add_argument("--json", action="store_true", help="one JSON event per line on stdout")
    parser.add_argument("--version", action="version", version=f"dsv4-mlx {__version__}")
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert verify", description="Check a finished conversion."
    )
    parser.add_argument("dst", metavar="DST", type=Path, help="the converted folder")
    parser.add_argument("--against", metavar="SRC", type=Path, help="the folder it came from")
    levels = "; ".join(f"{name}: {meaning}" for name, meaning in LEVELS.items())
    parser.add_argument("--level", choices=list(LEVELS), default="lossless", help=levels)
    parser.add_argument("--text", metavar="FILE", type=Path, help="the text for behaviour")
    parser.add_argument("--json", action="store_true", help="one JSON event per line on stdout")
    return parser


def _inspect_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert inspect", description="Say what a model folder holds."
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="an official or converted folder")
    parser.add_argument("--json", action="store_true", help="facts as JSON on stdout")
    return parser


def _calibrate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert calibrate",
        description="Measure on texts how much each input channel of the matrices carries, one "
        "layer in memory at a time, for --importance.",
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="the official folder")
    parser.add_argument(
        "texts",
        metavar="TEXT",
        type=Path,
        nargs="+",
        help='UTF-8 texts; in *.jsonl one conversation per line, {"messages": [...]}',
    )
    parser.add_argument(
        "-o",
        dest="output",
        metavar="FILE",
        type=Path,
        default=Path("importance.safetensors"),
        help="the file to write (default: importance.safetensors)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON event per line on stdout")
    return parser


def _fetch_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convert fetch",
        description="Fetch a release from the Hugging Face hub: only the files that are needed, "
        "continuing what is there, hashes checked.",
    )
    parser.add_argument("repo", metavar="REPO_ID", help="such as deepseek-ai/NAME")
    parser.add_argument("dst", metavar="DST", type=Path, help="the folder for the files")
    parser.add_argument("--json", action="store_true", help="one JSON event per line on stdout")
    return parser


_COMMANDS = {
    "calibrate": (_calibrate_parser, _calibrate),
    "fetch": (_fetch_parser, _fetch),
    "verify": (_verify_parser, _verify),
    "inspect": (_inspect_parser, _inspect),
}
