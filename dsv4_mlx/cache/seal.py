"""A checksum inside a cache file, over every byte of it.

A flipped bit in an entry would change answers without any sign. The header is written with zeros
in the place of the sum, which `close` replaces. The sum adds the file's 8-byte words, which runs at
the speed of memory and notices whatever a failing disk or a torn write does.
"""

import re
from pathlib import Path

import numpy as np

OPEN = "0" * 16
"""What the header holds before `close`."""
_SLOT = re.compile(rb'"checksum"\s*:\s*"([0-9a-f]{16})"')


def close(path: Path) -> None:
    """Put the checksum of the file into its header."""
    slot = _slot(path)
    if slot is None:
        raise ValueError("its header has no checksum")
    start, _ = slot
    with path.open("r+b") as file:
        file.seek(start)
        file.write(_sum(path, start))


def check(path: Path) -> None:
    """ValueError when a file with a checksum is not as it was written."""
    slot = _slot(path)
    if slot is not None and _sum(path, slot[0]) != slot[1]:
        raise ValueError("its checksum is not the one it was written with")


def _slot(path: Path) -> tuple[int, bytes] | None:
    """Where the digits stand in the file, and which."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        match = _SLOT.search(file.read(length))
    return None if match is None else (8 + match.start(1), match[1])


def _sum(path: Path, slot: int) -> bytes:
    """Sixteen hex digits: all words of the file, with zeros in the slot."""
    content = np.memmap(path, np.uint8, "c")  # a private copy: the file stays as it is
    content[slot : slot + len(OPEN)] = ord("0")
    whole = len(content) // 8 * 8
    words = int(content[:whole].view("<u8").sum(dtype=np.uint64))
    rest = int.from_bytes(content[whole:].tobytes(), "little")
    return f"{(words + rest) % 2**64:016x}".encode()
