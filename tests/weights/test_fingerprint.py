"""Which changes of a folder leave its kept timelines valid, and which do not."""

from pathlib import Path

import mlx.core as mx
import pytest

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import CacheError
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.files.safetensors_writing import plan_array
from dsv4_mlx.loading import load_model
from dsv4_mlx.release.config import DeepseekV4Config, DSpark
from dsv4_mlx.release.deciding import deciding_keys
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.testing.checkpoints import TINY, edit_checkpoint, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.fingerprint import fingerprint, timeline_fingerprint
from dsv4_mlx.weights.planning import plan_parameters

SMALL = TINY.replace(
    num_hidden_layers=1, compress_ratios=(4, 0), num_hash_layers=0, n_routed_experts=4
)
STAGES = SMALL.replace(dspark=DSpark(5, 9, (0, 0, 0), 8), compress_ratios=(4, 0, 0, 0))
# What cache files of versions 2 to 4 were marked with, computed when these were new.
MARKED = {
    False: "6caf7e89cbc519f6304390df1f6bd276dcf8918844bd4897ca043366f1670c8f",
    True: "ec364a7fa79aa8815b6e75ad44ac9750e44e5944560d15af65c10c7152cdfccc",
}


def written(path: Path, **options: object) -> Path:
    return write_tiny_checkpoint(path, SMALL, tokenizer=False, **options)


def other_values(folder: Path, beginning: str) -> None:
    """Every byte of the tensors with this beginning turned."""
    found = {
        name: plan_array(name, entry.dtype, entry.read() ^ 1)
        for name, entry in read_header(next(folder.glob("*.safetensors"))).items()
        if name.startswith(beginning) and entry.dtype in ("I8", "F8_E4M3")
    }
    assert found
    edit_checkpoint(folder, found)


def names_of(folder: Path) -> tuple[str, str]:
    """Of timelines, and of all weights."""
    checkpoint = open_checkpoint(folder)
    plan = plan_parameters(checkpoint)
    return timeline_fingerprint(checkpoint, plan), fingerprint(checkpoint, plan)


@pytest.mark.parametrize("dspark", [False, True])
def test_what_older_files_were_marked_with_is_still_known(tmp_path: Path, dspark: bool) -> None:
    assert names_of(written(tmp_path / "a", dspark=dspark))[1] == MARKED[dspark]


def test_drafts_leave_timelines_valid_and_the_backbone_does_not(tmp_path: Path) -> None:
    plain, whole = names_of(written(tmp_path / "mtp"))
    assert names_of(written(tmp_path / "dspark", dspark=True))[0] == plain
    other_values(tmp_path / "mtp", "mtp.")
    assert names_of(tmp_path / "mtp")[0] == plain
    assert names_of(tmp_path / "mtp")[1] != whole
    other_values(tmp_path / "mtp", "layers.0.attn.wkv")
    assert names_of(tmp_path / "mtp")[0] != plain


@pytest.mark.parametrize(
    "other",
    [
        STAGES,
        SMALL.replace(num_nextn_predict_layers=0, compress_ratios=(4,)),
        SMALL.replace(expert_dtype="fp4", initializer_range=0.03, other_stop_ids=(7,)),
    ],
    ids=["dspark", "no drafts", "neither"],
)
def test_keys_of_drafts_and_keys_at_their_defaults_decide_nothing(other: DeepseekV4Config) -> None:
    assert deciding_keys(other) == deciding_keys(SMALL)
    assert not {"engram", "dspark", "expert_dtype"} & deciding_keys(SMALL).keys()


@pytest.mark.parametrize(
    "other",
    [
        SMALL.replace(compress_ratios=(128, 0)),
        SMALL.replace(swiglu_limit=3.0),
        SMALL.replace(expert_dtype="fp8"),
        SMALL.replace(rope_scaling=None),
        SMALL.replace(engram=EngramConfig((0,), 200, 300, n_heads=2, head_dim=64)),
    ],
    ids=["ratio", "limit", "fp8", "rope", "engram"],
)
def test_keys_that_decide_numbers_tell_timelines_apart(other: DeepseekV4Config) -> None:
    assert deciding_keys(other) != deciding_keys(SMALL)


def session_of(folder: Path) -> Session:
    return Engine(load_model(open_checkpoint(folder), dtype=mx.float32, backend="cpu")).session()


def reply(session: Session) -> list[int]:
    return [token.id for token in session.stream(3, stop_ids=())]


def test_a_kept_session_goes_on_with_other_drafts_and_without(tmp_path: Path) -> None:
    folder, file = written(tmp_path / "a"), tmp_path / "kept.kv"
    session = session_of(folder)
    session.sync([3, 5, 7, 9, 11, 13])
    session.save(file)
    expected = reply(session)
    other_values(folder, "mtp.")
    for one in (folder, written(tmp_path / "b", dspark=True)):
        again = session_of(one)
        again.load(file)
        assert reply(again) == expected
    other_values(folder, "layers.0.attn.wkv")
    with pytest.raises(CacheError, match="was written for another one"):
        session_of(folder).load(file)


def test_a_file_with_the_mark_of_older_versions_goes_on(tmp_path: Path) -> None:
    folder, file = written(tmp_path / "a"), tmp_path / "kept.kv"
    session = session_of(folder)
    session.sync([3, 5, 7, 9, 11, 13])
    session.save(file)
    arrays, header = mx.load(str(file), format="safetensors", return_metadata=True)
    mx.eval(list(arrays.values()))
    older = {key: header[key] for key in ("format", "layout", "details")}
    marked = older | {"version": "2", "fingerprint": MARKED[False]}
    mx.save_safetensors(f"{file}.safetensors", arrays, marked)
    again = session_of(folder)
    again.load(f"{file}.safetensors")
    assert reply(again) == reply(session)
