"""What nano says after conversion: the same in native, nearly the same in few bits."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

import dsv4_mlx
from convert.app import main
from dsv4_mlx.loading import load

NANO = Path(dsv4_mlx.__file__).parent / "nano"


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text((Path(dsv4_mlx.__file__).parent / "nano" / "README.md").read_text()[:300])
    return path


def behaviour(folder: Path, text: Path, capsys, *options: str) -> dict:
    arguments = ["verify", str(folder), "--level", "behaviour", "--text", str(text), "--json"]
    assert main([*arguments, *options]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return next(event for event in events if event["event"] == "behaviour")


def test_fewer_bits_are_further_from_native(tmp_path, text, capsys):
    found = {}
    for recipe in ("native", "q4", "q2"):
        assert main([str(NANO), str(tmp_path / recipe), "--recipe", recipe]) == 0
        capsys.readouterr()
        found[recipe] = behaviour(tmp_path / recipe, text, capsys, "--against", str(NANO))
    assert found["native"]["kl"] == 0 and found["native"]["same_choice"] == 1
    assert found["native"]["perplexity"] == found["native"]["source_perplexity"]
    assert 0 < found["q4"]["kl"] < found["q2"]["kl"]
    assert found["q4"]["same_choice"] > 0.8


def test_native_equals_direct_loading_logit_for_logit(tmp_path):
    assert main([str(NANO), str(tmp_path / "out")]) == 0
    (direct, _), (converted, _) = load(NANO), load(tmp_path / "out")
    tokens = mx.array([list(range(5, 300, 3))])
    assert mx.array_equal(direct(tokens), converted(tokens)).item()


def test_perplexity_alone_needs_no_source(tmp_path, text, capsys):
    assert main([str(NANO), str(tmp_path / "out")]) == 0
    capsys.readouterr()
    found = behaviour(tmp_path / "out", text, capsys)
    assert found["perplexity"] > 1 and found["kl"] is None


def test_behaviour_and_text_belong_together(tmp_path, text, capsys):
    assert main([str(NANO), str(tmp_path / "out")]) == 0
    assert main(["verify", str(tmp_path / "out"), "--level", "behaviour"]) == 2
    assert main(["verify", str(tmp_path / "out"), "--text", str(text)]) == 2
    assert "needs a text" in capsys.readouterr().err
    (tmp_path / "empty.txt").touch()
    arguments = ["--level", "behaviour", "--text", str(tmp_path / "empty.txt")]
    assert main(["verify", str(tmp_path / "out"), *arguments]) == 2
    assert "than expected, 2 or more" in capsys.readouterr().err
