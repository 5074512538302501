"""What the values of options are made of, and the sentence for every other text."""

import argparse
import math
from collections.abc import Callable

from dsv4_mlx.engine.sampling import Range
from dsv4_mlx.files.sizes import bytes_of


def whole(minimum: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number from `minimum` to `most`."""
    read = within(Range(minimum, math.inf if most is None else most, whole=True))
    return lambda text: int(read(text))


def within(range_: Range) -> Callable[[str], float]:
    """A number of `range_`."""

    def convert(text: str) -> float:
        try:
            return range_.read(text)
        except ValueError:
            expected = range_.expected(text)
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}") from None

    return convert


def size_or(word: str) -> Callable[[str], int | str]:
    """Bytes of a text like 20GB, or `word`."""

    def convert(text: str) -> int | str:
        if text == word:
            return text
        try:
            return bytes_of(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected {word} or a size like 20GB or 512MiB, found {text!r}"
            ) from None

    return convert
