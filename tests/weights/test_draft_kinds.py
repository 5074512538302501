"""Drafts are told apart by their tensors: other ones, and unknown ones, are refused by name."""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.writer import write
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.files.safetensors_writing import TensorPlan, plan_array, write_file
from dsv4_mlx.loading import load_model
from dsv4_mlx.testing.checkpoints import TINY, edit_checkpoint, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import DRAFT_FILE, open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters

SMALL = TINY.replace(
    num_hidden_layers=1, compress_ratios=(128, 0), num_hash_layers=0, n_routed_experts=2
)


def written(folder: Path, dspark: bool) -> Path:
    return write_tiny_checkpoint(folder, SMALL, dspark=dspark, tokenizer=False)


def drafts_of(folder: Path) -> dict[str, TensorPlan]:
    return {
        name: plan_array(name, entry.dtype, entry.read())
        for path in folder.glob("*.safetensors")
        for name, entry in read_header(path).items()
        if name.startswith("mtp.")
    }


def refusal(folder: Path, changes: Mapping[str, TensorPlan | None]) -> str:
    edit_checkpoint(folder, changes)
    with pytest.raises(CheckpointError) as caught:
        plan_parameters(open_checkpoint(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dspark", [False, True], ids=["mtp", "dspark"])
def test_an_unknown_draft_tensor_is_an_error_that_names_it(tmp_path: Path, dspark: bool) -> None:
    name = "mtp.0.gadget.weight"
    one = plan_array(name, "BF16", np.zeros((2, 2), np.uint16))
    said = refusal(written(tmp_path, dspark), {name: one})
    assert said.startswith(f"{name} in model-00001-of-00001.safetensors is no tensor of the model")


def test_a_stage_that_lacks_a_tensor_is_an_error_that_names_it(tmp_path: Path) -> None:
    said = refusal(written(tmp_path, dspark=True), {"mtp.1.attn_norm.weight": None})
    assert said.startswith("mtp.1.attn_norm.weight is missing")


@pytest.mark.parametrize("dspark", [False, True], ids=["mtp", "dspark"])
def test_drafts_of_the_other_kind_are_told_apart(tmp_path: Path, dspark: bool) -> None:
    other = drafts_of(written(tmp_path / "other", not dspark))
    folder = written(tmp_path / "one", dspark)
    own: dict[str, TensorPlan | None] = dict.fromkeys(drafts_of(folder))
    said = refusal(folder, own | other)
    kinds = ["an MTP block", "DSpark's stages"]
    assert said.startswith(f"config.json describes {kinds[dspark]}, but mtp.0.")
    assert f"belongs to {kinds[not dspark]}; " in said


def test_drafts_of_v41_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, dspark=True)
    before = "mtp.2.markov_head.markov_w1.weight"
    name = "mtp.2.markov_head.embed.weight"
    values = drafts_of(folder)[before]
    one = TensorPlan(name, values.dtype, values.shape, values.chunks)
    said = refusal(folder, {before: None, name: one})
    assert said.startswith(
        f"{name} in model-00001-of-00001.safetensors belongs to the draft stages"
    )
    assert "DeepSeek-V4.1" in said


def test_a_converted_folder_loads_the_stages_of_its_source(tmp_path: Path) -> None:
    source = written(tmp_path / "source", dspark=True)
    write(plan_conversion(open_checkpoint(source)), tmp_path / "out", ProgressDisplay())
    arrays = [
        dict(tree_flatten(load_model(open_checkpoint(one), backend="cpu", drafts=True)["mtp"]))
        for one in (source, tmp_path / "out")
    ]
    assert arrays[0].keys() == arrays[1].keys()
    assert all(mx.array_equal(one, arrays[1][name]).item() for name, one in arrays[0].items())
    (tmp_path / "out" / DRAFT_FILE).unlink()
    assert not load_model(open_checkpoint(tmp_path / "out"), backend="cpu", drafts=True).stages


def test_a_tensor_beside_the_index_is_not_there_twice(tmp_path: Path) -> None:
    folder = written(tmp_path, dspark=False)
    name = "mtp.0.enorm.weight"
    write_file(folder / DRAFT_FILE, [drafts_of(folder)[name]])
    with pytest.raises(CheckpointError, match=f"{name} is stored twice, in model-00001"):
        open_checkpoint(folder)
