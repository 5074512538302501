"""Whether a model that was just loaded is still in memory: a token is timed, a slow one told."""

from typing import TYPE_CHECKING

from cli.machine.machine import read_machine
from cli.machine.memory import is_small
from dsv4_mlx.errors import Dsv4Error

if TYPE_CHECKING:
    from pathlib import Path

    from dsv4_mlx.engine.engine import Engine


def slow_memory(engine: "Engine", folder: "Path") -> tuple[str, ...]:
    """A sentence where a token of the loaded model takes far too long, as when the system took its
    memory away meanwhile.

    No token is decoded on other backends than Metal, where nothing is kept resident, where experts
    are read from files, and by a model that is small beside the memory. On the model's thread; a
    failure of the model is left to the first answer.
    """
    from dsv4_mlx.engine.timed_token import residency_note

    if engine.backend != "metal" or engine.drafting.weights_elsewhere or not engine.memory.wanted:
        return ()
    if is_small(folder, machine := read_machine()):
        return ()
    # Kernels that are compiled meanwhile would take the token's time.
    if (finish := getattr(engine.model, "finish_warm_up", None)) is not None:
        finish()
    try:
        said = residency_note(engine, engine.memory.wanted, machine.chip)
    except Dsv4Error:
        return ()
    return (said,) if said else ()
