"""Consecutive layers of a model, and what of its weights goes with them."""

import re
from dataclasses import dataclass

from dsv4_mlx.errors import UsageError

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
EMBEDDING = "model.embed_tokens"


def layer_of(module: str, layers: int) -> int:
    """The layer of `layers` that our `module`, or a tensor under our name, goes with."""
    if found := _LAYER.match(module):
        return int(found[1])
    return 0 if module.startswith(EMBEDDING) else layers - 1


@dataclass(frozen=True)
class LayerRange:
    """Layers `first` to `stop`, without `stop`, of a model with `of` layers.

    The embedding goes with layer 0; final norm, head and draft blocks go with the last layer. So
    ranges that follow each other hold everything once.
    """

    first: int
    stop: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.stop <= self.of:
            raise UsageError(
                f"layers are {self.first}:{self.stop}, expected a:b with 0 <= a < b <= {self.of}, "
                f"such as 0:{max(1, self.of // 2)}."
            )

    def __str__(self) -> str:
        return f"{self.first}:{self.stop}"

    def sentence(self) -> str:
        """For people."""
        return f"layers {self} of {self.of}"

    @property
    def is_whole(self) -> bool:
        """Whether it is all layers."""
        return self.stop - self.first == self.of

    def holds(self, module: str) -> bool:
        """Whether our `module`, or a tensor under our name, goes with these layers."""
        return self.first <= layer_of(module, self.of) < self.stop

    def includes(self, other: "LayerRange") -> bool:
        """Whether `other` is a part of it."""
        return self.of == other.of and self.first <= other.first and other.stop <= self.stop


def read_layers(text: str, of: int) -> LayerRange:
    """The range that `a:b` says of a model with `of` layers; either may be left out. UsageError."""
    found = re.fullmatch(r"\s*(\d{0,6}):(\d{0,6})\s*", text, re.ASCII)
    if found is None:
        raise UsageError(
            f"layers are {text!r}, expected a:b, two whole numbers up to {of}; b is not included."
        )
    first, stop = found.groups()
    return LayerRange(int(first or 0), int(stop or of), of)
