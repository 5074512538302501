"""Memory that a training step frees stays with the process: the next one finds it mapped.

A step makes and drops arrays of tens of megabytes by the hundred. glibc gives such memory back to
the system each time, and the system clears and maps every page of it anew, which took longer than
the arithmetic. MLX keeps no cache of its own on the CPU.
"""

from __future__ import annotations

import ctypes
import sys

# mallopt's numbers, glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_MOST = 2**31 - 1


def keep_pages() -> bool:
    """Keep what is freed, for the life of the process; False where the C library has no such way.

    One heap for all threads, no mappings of single arrays, nothing trimmed: the process holds what
    it held at its peak.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    wanted = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _MOST), (_TOP_PAD, 1 << 28))
    return all([mallopt(number, value) == 1 for number, value in wanted])
