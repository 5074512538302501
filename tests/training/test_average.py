"""The mean of runs: what is between their masters, rounded once."""

import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from dsv4_mlx.testing.tokenizers import write_tokenizer
from dsv4_mlx.training.average import main
from dsv4_mlx.training.starting_point import StartingPoint
from dsv4_mlx.training.stored_weights import rounded, stored_dtypes, write_release
from tests.training import tiny


def run_of(folder: Path, seed: int) -> tuple[Path, dict[str, mx.array]]:
    """A run as a stage leaves it, and its masters."""
    trained, fixed = tiny.weights(seed)
    fixed = tiny.weights(0)[1] if seed else fixed
    routers = {name: value for name, value in fixed.items() if name.endswith("correction_bias")}
    moved = {name: value + seed for name, value in routers.items()}
    write_tokenizer(folder / "model", ["a text of a run"], tiny.TINY.vocab_size)
    write_release(folder / "model", tiny.TINY, trained | fixed | moved, shard_bytes=1 << 30)
    state = {f"parameters/{name}": value for name, value in trained.items()}
    state |= {f"buffers/{name}": value for name, value in moved.items()}
    mx.save_safetensors(str(folder / "state.safetensors"), state | {"muon/x": mx.zeros(1)})
    return folder, trained | moved


def test_the_mean_of_masters_is_rounded_once(tmp_path):
    (one, first), (other, second) = (run_of(tmp_path / str(seed), seed) for seed in (0, 1))
    assert main([str(tmp_path / "mean"), str(one), str(other)]) == 0
    point = StartingPoint.of(tmp_path / "mean")
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    expected = mean | rounded(
        {name: mean[name] for name in point.trained}, stored_dtypes(tiny.TINY)
    )
    found = point.trained | point.fixed
    for name, value in expected.items():
        assert mx.allclose(found[name], value, rtol=1e-6, atol=1e-7), name
    assert (tmp_path / "mean" / "tokenizer.json").read_bytes() == (
        other / "model" / "tokenizer.json"
    ).read_bytes()


@pytest.mark.parametrize("what", ["there", "no run", "another tokenizer"])
def test_mistakes_are_sentences(tmp_path, capsys, what):
    (one, _), (other, _) = (run_of(tmp_path / str(seed), seed) for seed in (0, 1))
    out = tmp_path / "mean"
    if what == "there":
        out.mkdir()
    elif what == "no run":
        shutil.rmtree(one / "model")
    else:
        (other / "model" / "tokenizer.json").write_text("{}")
        one, other = other, one
    assert main([str(out), str(one), str(other)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: expected") and told.count("\n") == 1
    assert what == "there" or not out.exists()
