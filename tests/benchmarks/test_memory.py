"""A worker's peak memory is its own, whatever the size of the program that started it."""

import subprocess
import sys

from benchmarks.memory import peak_bytes

MIB = 1 << 20
GROWN = f"""
import subprocess, sys
ballast = bytearray(b"x") * ({256 * MIB})
child = "from benchmarks.memory import peak_bytes; print(peak_bytes())"
sys.stdout.buffer.write(subprocess.check_output([sys.executable, "-c", child]))
"""


def test_a_small_child_of_a_large_parent_is_small() -> None:
    assert 0 < int(subprocess.check_output([sys.executable, "-c", GROWN])) < 128 * MIB


def test_what_was_taken_and_given_back_counts() -> None:
    before = peak_bytes()
    ballast = bytearray(b"x") * (before + 64 * MIB)
    size = len(ballast)
    del ballast
    assert peak_bytes() > size
