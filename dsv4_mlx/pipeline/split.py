"""Which layers each of two ranks has: rank 1 the embedding and the first ones, rank 0 the others
and the head, cut where the larger part has the fewest bytes in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dsv4_mlx.errors import UsageError
from dsv4_mlx.pipeline.control import Ranks
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.release.naming import is_draft
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan

RANKS = 2
_LAYER = "model.layers."
_EMBEDDING = "model.embed_tokens"


@dataclass(frozen=True)
class LayerSplit:
    """The layers of each rank and the bytes of their weights in memory."""

    layers: tuple[range, range]
    """Of rank 0 and of rank 1."""
    nbytes: tuple[int, int]
    """0 for layers that a folder with a part of the model lacks."""

    @property
    def sentence(self) -> str:
        """Who has what, for people."""
        parts = []
        for rank in reversed(range(RANKS)):
            own, beside = self.layers[rank], "the head" if rank == 0 else "the embedding"
            size = f": {self.nbytes[rank] / 1e9:,.1f} GB" if self.nbytes[rank] else ""
            parts.append(f"rank {rank} has layers {own.start} to {own.stop - 1}, {beside}{size}")
        return "; ".join(parts) + "."


def require_two(ranks: Ranks) -> None:
    """UsageError for any number of ranks but two."""
    if ranks.size() != RANKS:
        raise UsageError(
            f"A pipeline has exactly two ranks, but {ranks.size()} were started; name two machines."
        )


def split_of(plan: ParameterPlan, layers: int, dense: str) -> LayerSplit:
    """Cut the model of a plan in two; `dense` is the dtype of unpacked matrices, BF16 or F32.

    UsageError for a model of one layer.
    """
    if layers < RANKS:
        raise UsageError(f"A model of {layers} layer cannot be cut in two; run it on one machine.")
    sizes = [0] * layers
    embedding = head = 0
    for parameter in plan.bare().parameters:
        nbytes = sum(form.nbytes for form in parameter.loaded(dense).values())
        number = layer_of(parameter)
        if number is not None:
            sizes[number] += nbytes
        elif parameter.module == _EMBEDDING:
            embedding += nbytes
        else:
            head += nbytes
    total = embedding + sum(sizes) + head
    first, best = embedding, None
    for cut in range(1, layers):
        first += sizes[cut - 1]
        if best is None or max(first, total - first) < max(best[1], total - best[1]):
            best = cut, first
    assert best is not None
    cut, first = best
    return LayerSplit((range(cut, layers), range(cut)), (total - first, first))


def split_at(
    held: LayerRange, plan: ParameterPlan, folder: Path, dense: str, rank: int | None
) -> LayerSplit:
    """The cut that a folder with a part of the model was made for; `plan` has its layers alone.

    UsageError where `rank` needs the other part; None asks for none.
    """
    own = 1 if held.first == 0 else 0
    if rank not in (None, own) or (own == 0 and held.stop < held.of):
        wanted = "the last layers and the head" if rank == 0 else "the embedding and first layers"
        raise UsageError(
            f"{folder} holds {held.sentence()}, expected {wanted} for rank {rank or 0}; give it "
            "the other part of the model, or all of it."
        )
    cut = held.stop if own == 1 else held.first
    nbytes = plan.bare().loaded_bytes(dense)
    sizes = (0, nbytes) if own == 1 else (nbytes, 0)
    return LayerSplit((range(cut, held.of), range(cut)), sizes)


def layer_of(parameter: Parameter) -> int | None:
    """The number of the layer that a parameter belongs to; None outside of the backbone's."""
    if not parameter.module.startswith(_LAYER):
        return None
    return int(parameter.module.removeprefix(_LAYER).partition(".")[0])


def own_parameters(plan: ParameterPlan, own: range, layers: int) -> ParameterPlan:
    """The parameters of `own` of so many layers, numbered from 0 as a `ModelPart` has them."""
    return ParameterPlan(tuple(_own(plan, own, layers)), plan.set_aside)


def _own(plan: ParameterPlan, own: range, layers: int) -> Iterator[Parameter]:
    for parameter in plan.parameters:
        number = layer_of(parameter)
        if number is not None:
            if number in own:
                rest = parameter.module.removeprefix(f"{_LAYER}{number}")
                yield replace(parameter, module=f"{_LAYER}{number - own.start}{rest}")
        elif is_draft(parameter.module):
            continue
        elif parameter.module == _EMBEDDING:
            if own.start == 0:
                yield parameter
        elif own.stop == layers:
            yield parameter


def stored_bytes(plan: ParameterPlan) -> int:
    """Bytes of the tensors in files that the parameters are made of."""
    return sum(
        entry.nbytes
        for parameter in plan.parameters
        for part in parameter.parts
        for entry in (part.weight, part.scales, part.biases)
        if entry is not None
    )
