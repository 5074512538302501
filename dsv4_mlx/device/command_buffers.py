"""How much MLX puts into one Metal command buffer: two variables of its own, set before it looks.

MLX ends a buffer after 40 or 50 launches, or once its arrays have more than 40 or 50 Mi elements,
and lets the host run ten buffers ahead. One expert stack has 537 M elements, so a token of V4-Flash
is 89 buffers and Python waits for the GPU (docs/launches.md). With these limits the launches alone
end a buffer.

MLX reads the variables when it makes its Metal device. What the person set stays, and programs that
we start inherit none of ours.
"""

import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from dsv4_mlx.device import tf32

LIMITS = {"MLX_MAX_OPS_PER_BUFFER": "100", "MLX_MAX_MB_PER_BUFFER": "100000"}
"""Launches, and Mi elements, in one command buffer."""
LEAST_MEMORY = 32 * 10**9
"""Bytes of a machine below which MLX's own limits stay: longer buffers hold arrays longer."""


@dataclass(frozen=True)
class CommandBuffers:
    """What holds in this process."""

    values: Mapping[str, str]
    """By variable, those that are set."""
    ours: frozenset[str] = frozenset()
    """Variables that this program set."""
    is_late: bool = False
    """MLX was there before they were set, so that its device may know nothing of them."""

    def sentence(self) -> str:
        """For people."""
        named = [
            f"{name}={self.values[name]} ({'set here' if name in self.ours else 'yours'})"
            for name in LIMITS
            if name in self.values
        ]
        if not named:
            return "command buffers as MLX limits them by itself"
        late = (
            "; mlx.core was imported before dsv4_mlx, so they may not hold: import dsv4_mlx first"
        )
        return f"command buffers: {', '.join(named)}{late if self.ours and self.is_late else ''}"


_set = CommandBuffers({})


def set_limits(
    variables: MutableMapping[str, str] | None = None,
    *,
    system: str | None = None,
    memory: int | None = None,
    is_late: bool | None = None,
) -> CommandBuffers:
    """Set the variables that are not set, on a Mac with enough memory; idempotent.

    `variables` are the process's own unless a test gives others, as it does the name of the system
    (as sys.platform), bytes of memory, and whether MLX is there already.
    """
    global _set
    variables = os.environ if variables is None else variables
    memory = physical_memory() if memory is None else memory
    if (system or sys.platform) == "darwin" and memory >= LEAST_MEMORY:
        missing = {name: value for name, value in LIMITS.items() if name not in variables}
        variables.update(missing)
        if missing:
            late = "mlx.core" in sys.modules if is_late is None else is_late
            _set = CommandBuffers(missing, _set.ours | set(missing), _set.is_late or late)
    return current(variables)


def current(variables: Mapping[str, str] | None = None) -> CommandBuffers:
    """What holds now."""
    variables = os.environ if variables is None else variables
    values = {name: variables[name] for name in LIMITS if name in variables}
    return CommandBuffers(values, _ours(values), _set.is_late)


def inherited(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """`variables`, by default the process's own, without what is set here: for other programs."""
    variables = os.environ if variables is None else variables
    ours = _ours(variables) | tf32.ours(variables)
    return {name: value for name, value in variables.items() if name not in ours}


def physical_memory() -> int:
    """Bytes of this machine; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _ours(variables: Mapping[str, str]) -> frozenset[str]:
    """What was set here and still says so."""
    return frozenset(name for name in _set.ours if variables.get(name) == LIMITS[name])
