"""`--drafts keep`, `drop` and `q8`: what becomes of draft blocks, and of kept conversations."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from convert.app import main
from convert.plan import plan_conversion
from convert.report import loaded_bytes
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import CacheError, CheckpointError, UsageError
from dsv4_mlx.files.safetensors_files import read_header, read_metadata
from dsv4_mlx.loading import load_model
from dsv4_mlx.release.config import DSpark
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, DRAFT_FILE, INDEX_FILE, open_checkpoint

MTP = TINY.replace(
    num_hidden_layers=1, compress_ratios=(128, 0), num_hash_layers=0, n_routed_experts=2
)
STAGES = MTP.replace(dspark=DSpark(5, 511, (0, 0, 0), 32), compress_ratios=(128, 0, 0))
CONFIGS = {"mtp": MTP, "dspark": STAGES}
PROMPT = [3, 5, 7, 9, 11, 13]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {
        name: write_tiny_checkpoint(folder / name, config, tokenizer=False)
        for name, config in CONFIGS.items()
    }


def converted(source: Path, folder: Path, drafts: str, *options: str) -> dict[str, Any]:
    assert main([str(source), str(folder), "--drafts", drafts, *options]) == 0
    return json.loads((folder / CONVERSION_FILE).read_text())


def stored(folder: Path) -> dict[str, Path]:
    return {name: path for path in folder.glob("*.safetensors") for name in read_header(path)}


@pytest.mark.parametrize("kind", CONFIGS)
def test_dropped_drafts_are_nowhere_and_all_else_is_as_with_them(
    sources: dict[str, Path], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = converted(sources[kind], tmp_path / "kept", "keep")
    dropped = converted(sources[kind], tmp_path / "dropped", "drop")
    hashes = kept["tensor_xxh3_128"]
    assert any(name.startswith("mtp.") for name in hashes)
    assert dropped["tensor_xxh3_128"] == {
        name: value for name, value in hashes.items() if not name.startswith("mtp.")
    }
    assert not any(name.startswith("mtp.") for name in stored(tmp_path / "dropped"))
    assert (kept["drafts"], dropped["drafts"], dropped["set_aside"]) == ("keep", "drop", [])
    model = load_model(open_checkpoint(tmp_path / "dropped"), backend="cpu", drafts=True)
    assert model.drafts() is None
    out = str(tmp_path / "dropped")
    for options in ([], ["--against", str(sources[kind]), "--level", "numeric"]):
        assert main(["verify", out, *options]) == 0
    assert main([str(sources[kind]), out, "--drafts", "drop", "--resume"]) == 0
    assert main([str(sources[kind]), out, "--resume"]) == 2
    assert "choice of drafts or layers; give another folder" in capsys.readouterr().err
    what = {"mtp": "an MTP block", "dspark": "DSpark's stages"}[kind]
    assert f"- Drafts: {what} left out" in (tmp_path / "dropped" / "CARD.md").read_text()
    assert main(["inspect", out]) == 0
    assert "drafts: None" in capsys.readouterr().out


@pytest.mark.parametrize("kind", CONFIGS)
def test_q8_spares_drafts_the_bits_of_a_recipe(
    sources: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    made = converted(sources[kind], tmp_path / "out", "q8", "--recipe", "q2")
    packed = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert packed["model.layers.0.mlp.experts.down_proj"]["bits"] == 2
    assert packed["mtp.0.mlp.experts.down_proj"]["mode"] == "mxfp4"
    wide = {name: one for name, one in packed.items() if "markov" in name}
    eight = {"group_size": 32, "bits": 8, "mode": "affine"}
    assert wide == ({} if kind == "mtp" else {"mtp.1.markov_head.markov_w2": eight})
    beside = {name for name, at in stored(tmp_path / "out").items() if at.name == DRAFT_FILE}
    assert set(made["set_aside"]) == beside
    model = load_model(open_checkpoint(tmp_path / "out"), backend="cpu", drafts=True)
    drafts = model.drafts()
    assert drafts is not None and drafts.name == kind
    for options in ([], ["--against", str(sources[kind]), "--level", "numeric"]):
        assert main(["verify", str(tmp_path / "out"), *options]) == 0


def test_q8_takes_eight_bits_of_what_has_more(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "base", MTP, base=True, tokenizer=False)
    made = converted(source, tmp_path / "out", "q8")
    errors = made["weight_error"]
    assert {name.partition(".")[0] for name in errors} == {"mtp"}
    assert "mtp.0.mlp.experts.down_proj" in errors and max(errors.values()) < 0.01
    assert main(["verify", str(tmp_path / "out"), "--against", str(source)]) == 0


def test_what_is_dropped_leaves_room(sources: dict[str, Path]) -> None:
    source = open_checkpoint(sources["mtp"])
    kept, dropped = (plan_conversion(source, drafts=one) for one in ("keep", "drop"))
    gone = sum(job.loaded_bytes for job in kept.jobs if job.module.startswith("mtp."))
    assert loaded_bytes(dropped) == loaded_bytes(kept) - gone
    assert dropped.nbytes < kept.nbytes and dropped.digest() != kept.digest()
    assert {entry.name for entry in dropped.left_out} == {
        name for name in source.tensors if name.startswith("mtp.")
    }


def test_a_source_whose_drafts_are_dropped_keeps_them(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    source = write_tiny_checkpoint(tmp_path / "source", MTP, shards=4, tokenizer=False)
    files = {path.name for path in source.glob("*.safetensors")}
    drafts = {at.name for name, at in stored(source).items() if name.startswith("mtp.")}
    assert drafts < files
    converted(source, tmp_path / "out", "drop", "--delete-source")
    assert {path.name for path in source.glob("*.safetensors")} == drafts


def test_a_stopped_conversion_goes_on(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts = "q8"
    whole = converted(sources["mtp"], tmp_path / "whole", drafts, "--recipe", "q4")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("convert.writer.copy_companions", stop)
        assert main([str(sources["mtp"]), str(tmp_path / "out"), "--drafts", drafts,
                     "--recipe", "q4"]) == 130  # fmt: skip
    assert main([str(sources["mtp"]), str(tmp_path / "out"), "--recipe", "q4", "--resume"]) == 2
    assert (
        converted(sources["mtp"], tmp_path / "out", drafts, "--recipe", "q4", "--resume") == whole
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_drafter_of_another_checkpoint_is_refused(
    sources: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    config = CONFIGS[kind]
    other = write_tiny_checkpoint(tmp_path / "other", config, seed=1, tokenizer=False)
    for source, name in ((sources[kind], "one"), (other, "two")):
        converted(source, tmp_path / name, "keep")
    converted(sources[kind], tmp_path / "four", "keep", "--recipe", "q4")
    name = DRAFT_FILE
    if kind == "mtp":  # in a shard of its own
        index = json.loads((tmp_path / "one" / INDEX_FILE).read_text())["weight_map"]
        name = index["mtp.0.enorm.weight"]
        assert index == json.loads((tmp_path / "two" / INDEX_FILE).read_text())["weight_map"]
    assert len(read_metadata(tmp_path / "one" / name)["backbone"]) == 64
    (tmp_path / "one" / name).replace(tmp_path / "spare")
    shutil.copy(tmp_path / "two" / name, tmp_path / "one" / name)
    with pytest.raises(CheckpointError, match=f"^{name} in .* holds the drafts of another checkpo"):
        open_checkpoint(tmp_path / "one")
    if kind == "dspark":  # of another conversion of the same checkpoint, whatever its recipe
        shutil.copy(tmp_path / "four" / name, tmp_path / "one" / name)
        open_checkpoint(tmp_path / "one")


def session_of(folder: Path) -> Session:
    return Engine(load_model(open_checkpoint(folder), backend="cpu")).session()


def reply(session: Session) -> list[int]:
    return [token.id for token in session.stream(3, stop_ids=())]


@pytest.mark.parametrize(("recipe", "drafts"), [("native", "drop"), ("q4", "q8"), ("q4", "drop")])
def test_conversations_of_before_open_when_drafts_were_dropped_or_converted(
    sources: dict[str, Path], tmp_path: Path, recipe: str, drafts: str
) -> None:
    options = ("--recipe", recipe)
    kept = converted(sources["mtp"], tmp_path / "kept", "keep", *options)
    now = converted(sources["mtp"], tmp_path / "now", drafts, *options)
    assert now["earlier_fingerprints"] == [kept["fingerprint"]]
    session = session_of(tmp_path / "kept")
    session.sync(PROMPT)
    session.save(tmp_path / "new.kv")
    older = as_version_4(tmp_path / "new.kv", kept["fingerprint"])
    expected = reply(session)
    again = session_of(tmp_path / "now")
    for file in (tmp_path / "new.kv", older):
        again.load(file)
        assert reply(again) == expected
    other = as_version_4(tmp_path / "new.kv", kept["fingerprint"][::-1])
    with pytest.raises(CacheError, match="was written for another one"):
        again.load(other)


def as_version_4(file: Path, fingerprint: str) -> Path:
    """The file as the program before wrote it, of a model of that fingerprint."""
    from dsv4_mlx.cache import seal

    arrays, header = mx.load(str(file), format="safetensors", return_metadata=True)
    mx.eval(list(arrays.values()))
    changed = {key: value for key, value in header.items() if key != "parts"}
    changed |= {"version": "4", "fingerprint": fingerprint, "checksum": seal.OPEN}
    path = file.with_name(f"older-{fingerprint[:8]}.safetensors")
    mx.save_safetensors(str(path), arrays, changed)
    seal.close(path)
    return path


def test_a_folder_that_never_had_drafts_gave_conversations_too(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    bare = write_tiny_checkpoint(tmp_path / "bare", MTP, transformers_names=True, tokenizer=False)
    model = load_model(open_checkpoint(bare), backend="cpu")
    whole = load_model(open_checkpoint(sources["mtp"]), backend="cpu")
    assert model.weights_fingerprint in whole.earlier_fingerprints
    assert model.weights_fingerprint != whole.weights_fingerprint


def test_an_unknown_choice_and_a_rule_about_dropped_drafts_are_refused(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main([str(sources["mtp"]), str(tmp_path / "out"), "--drafts", "some"])
    rules = tmp_path / "rules.toml"
    rules.write_text('[[matrices]]\nmatch = "mtp.*"\nbits = 4\ngroup_size = 32\n')
    source = open_checkpoint(sources["mtp"])
    assert plan_conversion(source, str(rules)).former == ()
    with pytest.raises(UsageError, match=r"names mtp\.\*, but no matrix"):
        plan_conversion(source, str(rules), drafts="drop")
