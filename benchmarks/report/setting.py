"""What a part is told: the backend, how much to do, and which of its ways to go."""

from dataclasses import dataclass

from benchmarks.report.sizes import Sizes


@dataclass(frozen=True)
class Setting:
    """The argument of every part."""

    backend: str
    sizes: Sizes
    choices: tuple[str, ...] = ()
    """What stands after the colon of the part's name, at its commas."""
