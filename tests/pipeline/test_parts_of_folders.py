"""Ranks that load parts of a conversion have the weights of ranks that load all of it."""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.writer import write
from dsv4_mlx.errors import UsageError
from dsv4_mlx.pipeline.part_loading import checkpoint_split, load_part
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint

CONFIG = TINY.replace(
    num_hidden_layers=3, compress_ratios=(4, 128, 0, 0), num_hash_layers=1, n_routed_experts=2
)


@dataclass
class OneOfTwo:
    """Stands for a group of two ranks."""

    number: int

    def rank(self) -> int:
        return self.number

    def size(self) -> int:
        return 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The whole conversion, and its two parts at the cut that it has by bytes."""
    root = tmp_path_factory.mktemp("parts")
    source = open_checkpoint(write_tiny_checkpoint(root / "source", CONFIG))
    cut = checkpoint_split(source, backend="cpu").layers[1].stop
    for name, layers in (
        ("whole", None), ("1", LayerRange(0, cut, 3)), ("0", LayerRange(cut, 3, 3)),
    ):  # fmt: skip
        write(plan_conversion(source, layers=layers), root / name, ProgressDisplay())
    return {name: root / name for name in ("whole", "0", "1")}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_has_the_same_weights_and_names_of_its_part(folders, rank: int) -> None:
    ranks = OneOfTwo(rank)
    whole = load_part(open_checkpoint(folders["whole"]), ranks, backend="cpu")
    part = load_part(open_checkpoint(folders[f"{rank}"]), ranks, backend="cpu")
    expected, found = (dict(tree_flatten(one.parameters())) for one in (whole, part))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert mx.array_equal(array, found[name]).item(), name
    assert (part.own, part.bytes_loaded) == (whole.own, whole.bytes_loaded)
    for name in ("fingerprint", "weights_fingerprint", "earlier_fingerprints"):
        assert getattr(part, name) == getattr(whole, name), name


def test_a_part_says_where_the_model_is_cut(folders) -> None:
    whole = checkpoint_split(open_checkpoint(folders["whole"]), backend="cpu")
    for rank in range(2):
        found = checkpoint_split(open_checkpoint(folders[f"{rank}"]), backend="cpu")
        assert found.layers == whole.layers
        assert found.nbytes[rank] == whole.nbytes[rank] and found.nbytes[1 - rank] == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_the_other_ranks_part_is_refused(folders, rank: int) -> None:
    other = open_checkpoint(folders[f"{1 - rank}"])
    with pytest.raises(UsageError, match=rf"holds layers .* of 3, expected .* for rank {rank}"):
        load_part(other, OneOfTwo(rank), backend="cpu")
