"""The most memory that this process itself had."""

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The largest resident size of this process since its program was started.

    On Linux `ru_maxrss` counts what the process was before it became this program, a copy of the
    parent: a small child of a parent of 3 GiB tells 3 GiB. VmHWM begins with the program.
    """
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
