"""What a conversion makes of draft blocks; whatever it is, replies stay the same."""

import re
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from convert.importance import Importance
from convert.quantized import ends
from convert.recipe import quantizable
from dsv4_mlx.weights.fingerprint import SAMPLE_BYTES, Sampled, sampled
from dsv4_mlx.weights.forms import AffineForm
from dsv4_mlx.weights.parameters import Parameter
from dsv4_mlx.weights.quantization import AFFINE_GROUPS, PackingKeys, WeightStorage

DraftHandling = Literal["keep", "drop", "q8"]
DRAFTS: Final[tuple[DraftHandling, ...]] = get_args(DraftHandling)
_BITS, _GROUP = 8, 64
_OF_DSPARK = re.compile(r"mtp\.\d+\.(?:main_proj|markov_head\.markov_w2)")
_WIDE = (WeightStorage.DENSE, WeightStorage.BLOCK_FP8)
"""Storages that take more than eight bits of a weight in memory."""


def eight_bits(parameter: Parameter) -> PackingKeys | None:
    """The packing of a draft block's matrix by `q8`; None where it has eight bits or fewer, or is
    none that may be quantized."""
    matrix = quantizable(parameter) or _OF_DSPARK.fullmatch(parameter.module)
    if not matrix or parameter.field != "weight" or parameter.storage not in _WIDE:
        return None
    fitting = [group for group in AFFINE_GROUPS if parameter.shape[-1] % group == 0]
    if not fitting:
        return None
    group = _GROUP if _GROUP in fitting else fitting[0]
    return {"group_size": group, "bits": _BITS, "mode": "affine"}


@dataclass(frozen=True)
class ConvertedParameter:
    """A parameter of an MTP block as a recipe makes it, whether or not it is written.

    Cache files of versions 2 to 4 name a fingerprint that covers these blocks; what a folder with
    them would have been called is kept in conversion.json, so that such files still open.
    """

    parameter: Parameter
    packing: PackingKeys | None
    importance: Importance | None

    def sample(self) -> Sampled:
        """What a fingerprint takes of it; of a quantized one the ends are made for that."""
        if self.packing is None:
            return sampled(self.parameter)
        form = AffineForm(self.packing["bits"], self.packing["group_size"])
        start, end = ends(self.parameter, self.packing, self.importance, SAMPLE_BYTES)
        made = replace(self.parameter, form=form)
        return Sampled(made.name, made.shape, made.storage.value, (start + end).hex())
