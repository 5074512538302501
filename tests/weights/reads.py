"""What tests see of the reads of files."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest


def reads_of(monkeypatch: pytest.MonkeyPatch, *files: Path) -> list[tuple[int, int, int]]:
    """First byte, bytes and buffers of every read of the `files` from now on; what other tests
    asked of other files may still be on its way."""
    reads: list[tuple[int, int, int]] = []
    whole, mine = os.preadv, [file.stat() for file in files]

    def noted(descriptor: int, buffers: Sequence[memoryview], start: int) -> int:
        count = whole(descriptor, buffers, start)
        if any(os.path.samestat(os.fstat(descriptor), one) for one in mine):
            reads.append((start, count, len(buffers)))
        return count

    monkeypatch.setattr(os, "preadv", noted)
    return reads
