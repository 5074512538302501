"""`python -m convert` as a person meets it: exit status, one sentence, progress lines."""

import subprocess
import sys
from pathlib import Path

import pytest

from convert.app import main
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE

SMALL = TINY.replace(
    num_hidden_layers=1, compress_ratios=(128, 0), num_hash_layers=0, n_routed_experts=2
)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source"), SMALL, tokenizer=False)


def test_converts_and_says_what_it_does(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "out"), "--recipe", "native"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert "64 parameters" in lines[0]
    assert lines[1].startswith("model-00001-of-00002.safetensors")
    assert lines[2].endswith("100%")
    assert lines[-1] == f"done: {tmp_path / 'out'}"
    assert (tmp_path / "out" / CONVERSION_FILE).is_file()


def test_runs_as_a_module(source, tmp_path):
    command = [sys.executable, "-m", "convert", str(source), str(tmp_path / "out")]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert result.returncode == 0, result.stderr
    assert "done:" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["absent", "out"], 1, "absent is not a folder"),
        (["{source}", "{occupied}"], 2, "is not empty"),
        (["{source}", "{source}/config.json"], 2, "is a file"),
        (["{source}", "out", "--recipe", "smallest"], 2, "expected one of: native, q8"),
    ],
    ids=["missing SRC", "occupied DST", "DST is a file", "unknown recipe"],
)
def test_errors_are_one_sentence(arguments, status, sentence, source, tmp_path, capsys):
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "something").touch()
    places = {"source": source, "occupied": tmp_path / "occupied"}
    assert main([argument.format(**places) for argument in arguments]) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and sentence in error


@pytest.mark.parametrize("arguments", [[], ["a"], ["a", "b", "--recipes"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_ctrl_c_exits_with_130(source, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("convert.app.write", interrupt)
    assert main([str(source), str(tmp_path / "out")]) == 130
    assert "unfinished" in capsys.readouterr().err


def test_disk_errors_are_told(source, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "out"))

    monkeypatch.setattr("convert.app.write", fail)
    assert main([str(source), str(tmp_path / "out")]) == 1
    assert "No space left on device" in capsys.readouterr().err
