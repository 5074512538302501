"""What the doctor tells of the disk that a model lies on, and of experts that are read from it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cli.machine.disk_speed import DiskSpeed, Files, Measuring, measure
from cli.machine.doctor_report import Page
from cli.machine.machine import Machine
from cli.machine.memory import SHORT_CONTEXT, Fit
from cli.machine.volumes import Volume, volume_of
from dsv4_mlx.sizing.streamed import Expected, StreamedWeights, bandwidth_of, enough_slots, expected
from dsv4_mlx.sizing.weight_bytes import streamed_weights
from dsv4_mlx.weights.checkpoint import Checkpoint

SLOW_DISK = 1e9
"""Bytes per second below which experts should not be read from a disk."""
_SMALLEST_READ = 1 << 20


def is_streamed(fit: Fit, weights: StreamedWeights) -> bool:
    """Whether the model does not fit here, and would with its experts on the disk."""
    context = min(SHORT_CONTEXT, fit.config.max_position_embeddings)
    if fit.limit is None or fit.fits(context):
        return False
    slots = weights.slots(weights.pools_in(fit.limit, context, fit.kv))
    return slots >= enough_slots(fit.config)


@dataclass(frozen=True)
class Storage:
    """Whether and how the model's disk is looked at."""

    wanted: bool | None = None
    """None is where experts are or would be read from it, False is never."""
    measuring: Measuring = field(default_factory=Measuring)
    tell: Callable[[str], None] = print
    """Hears that measuring takes a while."""
    volume: Callable[[Path], Volume | None] = volume_of

    def add(self, page: Page, checkpoint: Checkpoint, fit: Fit, machine: Machine) -> None:
        """The volume, its rate, and what that rate means for a streamed model."""
        if self.wanted is not False:
            _storage(page, checkpoint, fit, machine, self)


def _storage(
    page: Page, checkpoint: Checkpoint, fit: Fit, machine: Machine, options: Storage
) -> None:
    weights = streamed_weights(checkpoint, dense=4 if fit.backend == "cpu" else 2)
    streamed = is_streamed(fit, weights)
    if not (options.wanted or streamed):
        return
    place = options.volume(checkpoint.folder)
    speed = _speed(page, checkpoint, weights, options)
    found = None
    if streamed and speed is not None:
        found = _expected(fit, weights, machine, speed)
    facts: dict[str, Any] = {
        "volume": None if place is None else asdict(place),
        "measured": None if speed is None else asdict(speed),
        "streamed": streamed,
        "expected": None if found is None else asdict(found),
    }
    lines = [
        f"the model lies on {place.sentence()}" if place else "the system does not tell its volume",
        *([speed.sentence()] if speed else []),
        *([_expected_line(found, fit)] if found else []),
    ]
    page.add("storage", facts, *lines)
    if streamed:
        page.problems += _advice(place, speed, found)


def _speed(
    page: Page,
    checkpoint: Checkpoint,
    weights: StreamedWeights,
    options: Storage,
) -> DiskSpeed | None:
    measuring = options.measuring
    whole = 2 * measuring.seconds + measuring.pause
    options.tell(f"measuring the model's disk for {whole:.0f} s; --no-disk leaves that out")
    paths = sorted({entry.path for entry in checkpoint.tensors.values()})
    try:
        files = Files(paths)
        try:
            return measure(files, max(weights.expert_bytes, _SMALLEST_READ), measuring)
        finally:
            files.close()
    except OSError as error:
        page.problems.append(
            f"{error.filename or checkpoint.folder} could not be read ({error.strerror}); check "
            "its disk."
        )
        return None


def _expected(fit: Fit, weights: StreamedWeights, machine: Machine, speed: DiskSpeed) -> Expected:
    context = min(SHORT_CONTEXT, fit.config.max_position_embeddings)
    slots = weights.slots(weights.pools_in(fit.limit or 0, context, fit.kv))
    return expected(weights, slots, bandwidth_of(machine.chip), speed.sustained / 1e9)


def _expected_line(found: Expected, fit: Fit) -> str:
    return (
        f"with its experts on this disk (streamed): {found.rate_text()}, first answer after "
        f"{found.first_answer_s:.0f} s expected, {found.slots} of {fit.config.n_routed_experts} "
        "experts of a layer in memory; neither is measured"
    )


def _advice(place: Volume | None, speed: DiskSpeed | None, found: Expected | None) -> list[str]:
    """What speaks against this disk, with what to expect of it where experts are read from it."""
    rate = f"; {found.rate_text()} here" if found else ""
    if place is not None and place.kind == "network":
        return [
            f"the model lies on {place.name} over {place.connection}{rate}: copy the folder to a "
            "disk inside this computer, a network gives single experts slowly and may be gone."
        ]
    if speed is not None and speed.sustained < SLOW_DISK:
        return [
            f"the model's disk reads {speed.sustained / 1e9:.2f} GB/s, expected at least 1 GB/s"
            f"{rate}: copy the folder to a faster disk, such as the one inside this computer."
        ]
    return []
