"""Who has which layers, and what is refused before anything is read."""

from pathlib import Path

import pytest

from dsv4_mlx.errors import UsageError
from dsv4_mlx.loading import load
from dsv4_mlx.pipeline.part_loading import checkpoint_split
from dsv4_mlx.pipeline.split import split_of
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from tests.engine.small_models import SMALL

LAYERS = 3
CONFIG = SMALL.replace(num_hidden_layers=LAYERS, compress_ratios=(4, 128, 4, 0))


class Ranks:
    """A group before there is one."""

    def __init__(self, rank: int, size: int = 2) -> None:
        self._rank, self._size = rank, size

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"), CONFIG)


def test_the_larger_part_has_the_fewest_bytes_that_a_cut_allows(folder: Path) -> None:
    plan = plan_parameters(open_checkpoint(folder)).bare()
    bytes_of = [0] * (LAYERS + 2)  # the embedding, the layers, the head
    for one in plan.parameters:
        parts = one.module.split(".")
        place = int(parts[2]) + 1 if parts[1:2] == ["layers"] else None
        place = (0 if "embed" in one.module else LAYERS + 1) if place is None else place
        bytes_of[place] += sum(form.nbytes for form in one.loaded("F32").values())
    largest = {
        cut: max(sum(bytes_of[: cut + 1]), sum(bytes_of[cut + 1 :])) for cut in range(1, LAYERS)
    }
    split = checkpoint_split(open_checkpoint(folder), "cpu")
    (first, end), (start, cut) = ((one.start, one.stop) for one in split.layers)
    assert (start, first, end) == (0, cut, LAYERS)
    assert max(split.nbytes) == min(largest.values()) == largest[cut]
    assert sum(split.nbytes) == sum(bytes_of)


def test_people_are_told_who_has_what(folder: Path) -> None:
    sentence = checkpoint_split(open_checkpoint(folder), "cpu").sentence
    assert sentence.startswith("rank 1 has layers 0 to ") and "the embedding" in sentence
    assert f" to {LAYERS - 1}, the head: 0.0 GB." in sentence


@pytest.mark.parametrize("size", [1, 3])
def test_any_number_of_ranks_but_two_is_refused(folder: Path, size: int) -> None:
    with pytest.raises(UsageError, match=f"exactly two ranks, but {size} were started"):
        load(folder, backend="cpu", pipeline=Ranks(0, size))


def test_a_model_of_one_layer_is_refused(folder: Path) -> None:
    plan = plan_parameters(open_checkpoint(folder))
    with pytest.raises(UsageError, match="1 layer cannot be cut in two"):
        split_of(plan, 1, "F32")


def test_load_gives_the_layers_of_its_rank(folder: Path) -> None:
    parts = [load(folder, backend="cpu", pipeline=Ranks(rank))[0] for rank in (0, 1)]
    split = checkpoint_split(open_checkpoint(folder), "cpu")
    assert tuple(part.own for part in parts) == split.layers
    assert (
        parts[0].fingerprint == parts[1].fingerprint == load(folder, backend="cpu")[0].fingerprint
    )
