"""The command: arguments, what goes to which stream, exit status."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from convert import inspect, options
from convert.deletion import SOURCE_FILE, open_source
from convert.destination import require_empty
from convert.fetch import fetch
from convert.fit import fitting, shipped_plans
from convert.importance import open_importance
from convert.output import OutputError, emit, prepare, tell
from convert.parts import join
from convert.plan import ConversionPlan, plan_conversion
from convert.progress import Events, Lines, ProgressDisplay
from convert.recipe import Recipe
from convert.report import facts, page, size_text
from convert.shards import MAX_JOBS
from convert.streamed import offers
from convert.verify import verify
from convert.writer import write
from dsv4_mlx.errors import Dsv4Error, UsageError
from dsv4_mlx.files.hub_cache import model_folder, snapshot_sentence
from dsv4_mlx.files.paths import printable
from dsv4_mlx.release.layer_ranges import read_layers
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, Checkpoint
from dsv4_mlx.weights.parameters import ParameterPlan

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 on an error, 2 on wrong usage, 130 on Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    prepare()
    parser, run = _COMMANDS.get(words[0] if words else "", (options.parser, _convert))
    if run is not _convert:
        del words[0]
    try:
        chosen = parser().parse_args(words)
    except Dsv4Error as error:  # of a path, or of the output that takes no --help
        tell(f"error: {error}")
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_ERROR
    return _ended(chosen, run)


def _ended(chosen: Namespace, run: Callable[[Namespace, ProgressDisplay], None]) -> int:
    progress = _progress_for(chosen.json)
    try:
        run(chosen, progress)
        return 0
    except OutputError as error:
        tell(f"error: {_unfinished(str(error), chosen, run)}")
        return EXIT_ERROR
    except UsageError as error:
        message, status = str(error), EXIT_USAGE
    except Dsv4Error as error:
        message, status = str(error), EXIT_ERROR
    except OSError as error:
        message, status = _disk_sentence(error), EXIT_ERROR
    except KeyboardInterrupt:
        message, status = _unfinished("Interrupted.", chosen, run), EXIT_INTERRUPTED
    finally:
        progress.end()
    try:
        progress.say(f"error: {message}", "error", text=message)
    except OutputError:
        tell(f"error: {message}")
    return status


def _progress_for(json_events: bool) -> ProgressDisplay:
    """The progress that suits what is on the other end: a program, a terminal or a file."""
    if json_events:
        return Events()
    if sys.stderr is None or not sys.stderr.isatty():
        return Lines()
    from convert.screen import Screen  # rich is loaded only where there is something to draw on

    return Screen()


def _unfinished(
    sentence: str, chosen: Namespace, run: Callable[[Namespace, ProgressDisplay], None]
) -> str:
    """The sentence, with what to do where a conversion was under way."""
    if run is not _convert or chosen.dry_run or (chosen.dst / CONVERSION_FILE).exists():
        return sentence
    return f"{sentence[:-1]}; {chosen.dst} is unfinished, continue it with --resume."


def _convert(chosen: Namespace, progress: ProgressDisplay) -> None:
    destination, jobs = chosen.dst, _jobs(chosen.jobs)
    source = _located(chosen.src, progress, silent=chosen.dry_run and chosen.json)
    if not chosen.resume and not chosen.dry_run:
        require_empty(destination)
    checkpoint, parameters = open_source(source, destination)
    layers = None
    if chosen.layers is not None:
        layers = read_layers(chosen.layers, checkpoint.config.num_hidden_layers)
    recipe = chosen.recipe
    if chosen.fit:
        recipe = _fitting(checkpoint, parameters, chosen, progress)
    plan = plan_conversion(
        checkpoint, recipe, parameters=parameters, drafts=chosen.drafts, layers=layers
    )
    if chosen.importance:
        plan = _weighted(plan, chosen)
    if chosen.dry_run:
        _dry_run(plan, chosen)
        return
    count = sum(plan.holds(one.module) for one in plan.parameters.parameters)
    aside = len(plan.set_aside)
    left_out = f"{len(plan.left_out)} left out, " if plan.left_out else ""
    progress.say(
        f"{source} -> {destination}: {count} parameters, {aside} draft tensors kept aside, "
        f"{left_out}{size_text(plan.nbytes)}",
        "plan",
        parameters=count,
        set_aside=aside,
        left_out=len(plan.left_out),
        bytes=plan.nbytes,
    )
    write(
        plan,
        destination,
        progress,
        resume=chosen.resume,
        delete_source=chosen.delete_source,
        jobs=jobs,
    )
    progress.say(f"done: {destination}", "done", destination=str(destination))


def _fitting(
    source: Checkpoint, parameters: ParameterPlan, chosen: Namespace, progress: ProgressDisplay
) -> Recipe:
    """The recipe that `--fit` takes; what it means, and what else there is, are said."""
    found = fitting(shipped_plans(source, parameters, chosen.drafts), chosen.fit)
    if not (chosen.dry_run and chosen.json):
        progress.say(found.sentence(), "fit", **found.facts())
        for sentence, offer in found.offer_sentences():
            progress.say(sentence, "offer", **offer.facts())
    return found.plan.recipe


def _dry_run(plan: ConversionPlan, chosen: Namespace) -> None:
    streamed = list(offers(plan))
    if chosen.json:
        found = facts(plan, chosen.dst, delete_source=chosen.delete_source)
        found["streamed"] = [one.facts() for one in streamed]
        emit(json.dumps(found, indent=2))
        return
    lines = page(plan, chosen.dst, delete_source=chosen.delete_source)
    emit(_page([*lines, *(one.sentence() for one in streamed)]))


def _located(path: Path, progress: ProgressDisplay, silent: bool = False) -> Path:
    """The model's folder; of a repository in a hub's cache a snapshot, which is said."""
    folder = model_folder(path)
    sentence = snapshot_sentence(path, folder)
    if sentence is not None and not silent:
        progress.say(sentence, "snapshot", folder=str(folder))
    return folder


def _weighted(plan: ConversionPlan, chosen: Namespace) -> ConversionPlan:
    """The same plan with the importance file; one of another checkpoint is refused."""
    deleting = (chosen.dst / SOURCE_FILE).exists()  # the source may be gone in part
    source, parameters = plan.source, plan.parameters
    importance = open_importance(chosen.importance, source, parameters, not deleting)
    return plan_conversion(
        source,
        plan.recipe,
        parameters=parameters,
        importance=importance,
        drafts=plan.draft_choice,
        layers=plan.layers,
    )


def _jobs(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MAX_JOBS:
        raise UsageError(f"--jobs is {text!r}, expected a whole number from 1 to {MAX_JOBS}.")
    return int(text)


def _verify(chosen: Namespace, progress: ProgressDisplay) -> None:
    verify(chosen.dst, chosen.against, chosen.level, progress, chosen.text)


def _inspect(chosen: Namespace, progress: ProgressDisplay) -> None:
    facts = inspect.describe(chosen.path)
    emit(json.dumps(facts, indent=2) if chosen.json else _page(inspect.page(facts)))


def _page(lines: Iterable[str]) -> str:
    return "\n".join(map(printable, lines))


def _calibrate(chosen: Namespace, progress: ProgressDisplay) -> None:
    from convert.calibrate import calibrate

    calibrate(_located(chosen.src, progress), chosen.texts, chosen.output, progress)


def _fetch(chosen: Namespace, progress: ProgressDisplay) -> None:
    fetch(chosen.repo, chosen.dst, progress)


def _join(chosen: Namespace, progress: ProgressDisplay) -> None:
    join(chosen.parts, chosen.dst, progress)


def _disk_sentence(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return (
        f"Stopped: {error.strerror or error}{where}; remove the cause and continue, a conversion "
        "with --resume."
    )


_COMMANDS = {
    "calibrate": (options.calibrate_parser, _calibrate),
    "fetch": (options.fetch_parser, _fetch),
    "verify": (options.verify_parser, _verify),
    "inspect": (options.inspect_parser, _inspect),
    "join": (options.join_parser, _join),
}
