"""`verify` finds one flipped bit anywhere, `inspect` says what a folder holds."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from convert.app import main
from convert.plan import DRAFT_FILE
from dsv4_mlx.files.safetensors_files import TensorEntry, read_header
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE

SMALL = TINY.replace(
    num_hidden_layers=1, compress_ratios=(4, 0), num_hash_layers=1, n_routed_experts=2
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A source with draft stages, and its conversion."""
    folder = tmp_path_factory.mktemp("verify")
    source = write_tiny_checkpoint(folder / "source", SMALL, dspark=True, tokenizer=False)
    assert main([str(source), str(folder / "out")]) == 0
    return source, folder / "out"


@pytest.mark.parametrize("options", [[], ["--level", "structure"], ["--against", "{source}"]])
def test_a_good_conversion_passes(folders, options, capsys):
    source, out = folders
    assert main(["verify", str(out), *(one.format(source=source) for one in options)]) == 0
    assert "structure: " in capsys.readouterr().err


def flipped(out: Path, copy: Path, name: str) -> None:
    """A copy of `out` with one bit of one tensor changed."""
    shutil.copytree(out, copy)
    for path in copy.glob("*.safetensors"):
        if entry := read_header(path).get(name):
            with open(path, "r+b") as file:
                file.seek(entry.start + entry.nbytes // 2)
                byte = file.read(1)[0]
                file.seek(-1, 1)
                file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("against", [False, True], ids=["alone", "against the source"])
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.experts.down_proj.weight",
        "model.layers.0.mlp.experts.down_proj.scales",
        "model.layers.0.mlp.gate.tid2eid",
        "lm_head.weight",
        "mtp.2.ffn.shared_experts.w1.weight",
    ],
)
def test_one_flipped_bit_is_found(folders, tmp_path, name, against, capsys):
    source, out = folders
    flipped(out, tmp_path / "copy", name)
    options = ["--against", str(source)] if against else []
    assert main(["verify", str(tmp_path / "copy"), *options]) == 1
    assert f"error: {name} in " in capsys.readouterr().err


def longer(out: Path, copy: Path) -> Path:
    """A copy of `out` whose drafts have eight bytes more at their end, as recorded."""
    shutil.copytree(out, copy)
    with open(copy / DRAFT_FILE, "ab") as file:
        file.write(bytes(8))
    summary = json.loads((copy / CONVERSION_FILE).read_text())
    summary["file_bytes"][DRAFT_FILE] += 8
    (copy / CONVERSION_FILE).write_text(json.dumps(summary))
    return copy


def test_what_only_the_safetensors_library_refuses_is_said(folders, tmp_path, capsys):
    copy = longer(folders[1], tmp_path / "copy")
    assert main(["verify", str(copy), "--level", "structure"]) == 1
    assert capsys.readouterr().err == (
        f"error: The safetensors library refuses {DRAFT_FILE} (Error while deserializing header: "
        "incomplete metadata, file not fully covered); convert again.\n"
    )


def misread(change: Callable[[list[TensorEntry]], list[TensorEntry]]):
    """A reader of headers that makes a mistake with the first two scales of a file."""

    def read(path: Path) -> dict[str, TensorEntry]:
        entries = read_header(path)
        scales = [entry for entry in entries.values() if entry.dtype == "F8_E8M0"][:2]
        return entries | {entry.name: entry for entry in (change(scales) if scales else [])}

    return read


MISTAKES = {
    "dtype": (
        lambda scales: [replace(scales[0], dtype="U8")],
        r"is F8_E8M0 \[[0-9, ]+\] to the safetensors library, expected U8 \[[0-9, ]+\]; convert",
    ),
    "shape": (
        lambda scales: [replace(scales[0], shape=(1, *scales[0].shape))],
        r"is F8_E8M0 \[[0-9, ]+\] to the safetensors library, expected F8_E8M0 \[1, [0-9, ]+\]",
    ),
    "name": (
        lambda scales: [replace(scales[0], name="another")],
        r"is absent to the safetensors library, expected F8_E8M0",
    ),
    "place": (
        lambda scales: [
            replace(scales[0], start=scales[1].start), replace(scales[1], start=scales[0].start)
        ],
        r"draft\.safetensors has \S+ where we read \S+, says the safetensors library",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_our_reader_is_found_by_the_safetensors_library(
    mistake, folders, monkeypatch, capsys
):
    change, sentence = MISTAKES[mistake]
    monkeypatch.setattr("convert.verify.read_header", misread(change))
    assert main(["verify", str(folders[1]), "--level", "structure"]) == 1
    assert re.search(sentence, capsys.readouterr().err)


def test_numeric_without_the_source_is_refused_before_any_work(folders, capsys):
    assert main(["verify", str(folders[1]), "--level", "numeric"]) == 2
    assert capsys.readouterr().err.startswith("error: The level numeric compares with the source")


def test_lost_and_short_files_are_named(folders, tmp_path, capsys):
    _, out = folders
    changes = {"holds nothing": Path.unlink, "is no safe": lambda path: path.write_bytes(b"x")}
    for number, (said, change) in enumerate(changes.items()):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(out, copy)
        change(copy / "draft.safetensors")
        assert main(["verify", str(copy), "--level", "structure"]) == 1
        assert f"draft.safetensors {said}" in capsys.readouterr().err


def test_another_source_is_refused(folders, tmp_path, capsys):
    _, out = folders
    other = write_tiny_checkpoint(tmp_path / "other", SMALL, tokenizer=False)
    assert main(["verify", str(out), "--against", str(other)]) == 1
    assert "was converted from another source" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"file_bytes": 1}'])
def test_a_damaged_summary_is_named(folders, tmp_path, content, capsys):
    _, out = folders
    shutil.copytree(out, tmp_path / "copy")
    (tmp_path / "copy" / CONVERSION_FILE).write_text(content)
    assert main(["verify", str(tmp_path / "copy")]) == 1
    error = capsys.readouterr().err
    assert f"{CONVERSION_FILE} " in error and error.endswith("convert again.\n")


def test_an_unfinished_folder_is_refused(folders, capsys):
    source, _ = folders
    assert main(["verify", str(source)]) == 1
    assert "is no finished conversion" in capsys.readouterr().err


def test_inspect_describes_both(folders, capsys):
    source, out = folders
    assert main(["inspect", str(source)]) == 0
    assert "DeepSeek-V4, official" in capsys.readouterr().out
    assert main(["inspect", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["conversion"]["recipe"] == "native"
    kinds = {kind["what"]: kind["format"] for kind in facts["kinds"]}
    assert kinds["routed experts"] == "mxfp4" and kinds["attention"] == "mxfp8"
    assert facts["bytes"] == sum(kind["nbytes"] for kind in facts["kinds"])


def test_inspect_of_no_model_is_a_sentence(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 1
    assert "is not a model folder" in capsys.readouterr().err
