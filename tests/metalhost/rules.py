"""What Metal or MLX refuses before a compiler reads the text."""

from .report import MetalHostError, place
from .text import BODY_LINE, KernelText

MOST_BUFFERS = 31
"""Entries of a compute function's buffer argument table."""


def refuse_before_compiling(text: KernelText) -> None:
    """Raise for a text that no compiler gets to see on a Mac."""
    _refuse_beyond_ascii(text)
    _refuse_too_many_buffers(text)


def _refuse_beyond_ascii(text: KernelText) -> None:
    """MLX tells Metal that texts are ASCII, so that others are no text at all."""
    for part, first in ((text.header, 0), (text.body, BODY_LINE)):
        for number, line in enumerate(part.split("\n"), 1):
            if not line.isascii():
                odd = next(c for c in line if not c.isascii())
                where = place(first + number)
                raise MetalHostError(
                    "compile",
                    f"{where}: {odd!r} is not ASCII, and MLX hands texts to Metal as ASCII",
                    number if first else None,
                )


def _refuse_too_many_buffers(text: KernelText) -> None:
    count = len(text.buffers)
    if count > MOST_BUFFERS:
        raise MetalHostError(
            "compile",
            f"{count} buffers, of inputs, outputs, and the shapes, strides and ndims that the body "
            f"names; {MOST_BUFFERS} are the most a kernel gets",
        )
