"""What nano says after conversion: the same in native, nearly the same in few bits."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

import dsv4_mlx
from convert.app import main
from convert.behaviour import Behaviour
from convert.card import with_behaviour
from convert.texts import Text
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


@pytest.fixture(scope="module")
def native(tmp_path_factory) -> Path:
    """nano converted; a test that writes into the folder takes a copy."""
    folder = tmp_path_factory.mktemp("native") / "out"
    assert main([str(NANO), str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_fewer_bits_are_further_from_native(native, tmp_path, text, capsys):
    folders = {"native": shutil.copytree(native, tmp_path / "native")}
    for recipe in ("q4", "q2"):
        folders[recipe] = tmp_path / recipe
        assert main([str(NANO), str(folders[recipe]), "--recipe", recipe]) == 0
    capsys.readouterr()
    found = {
        recipe: behaviour(folder, text, capsys, "--against", str(NANO))
        for recipe, folder in folders.items()
    }
    assert found["native"]["kl"] == 0 and found["native"]["same_choice"] == 1
    assert found["native"]["perplexity"] == found["native"]["source_perplexity"]
    assert 0 < found["q4"]["kl"] < found["q2"]["kl"]
    assert found["q4"]["same_choice"] > 0.8


def test_native_equals_direct_loading_logit_for_logit(native):
    (direct, _), (converted, _) = load(NANO), load(native)
    tokens = mx.array([list(range(5, 300, 3))])
    assert mx.array_equal(direct(tokens), converted(tokens)).item()


def rows(card: str) -> list[list[str]]:
    """The last table of a card, below its head."""
    lines = card.split("## Behaviour")[1].splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_card_keeps_what_was_found_on_each_text(native, tmp_path, text, capsys):
    """Without the release only the perplexity; a text that comes again replaces its row."""
    out, other = tmp_path / "out", tmp_path / "talk.jsonl"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    other.write_text(json.dumps({"messages": messages}))
    shutil.copytree(native, out)
    before = (out / "CARD.md").read_text()
    capsys.readouterr()
    first = behaviour(out, text, capsys)
    assert first["perplexity"] > 1 and first["kl"] is None
    behaviour(out, other, capsys)
    found = behaviour(out, text, capsys, "--against", str(NANO))
    after = (out / "CARD.md").read_text()
    assert after.startswith(before.rstrip())
    [talk, again] = rows(after)
    assert talk[0].startswith("talk.jsonl (") and talk[3:] == ["", "", ""]
    assert again[1:] == [
        str(found["tokens"]), f"{found['perplexity']:.4f}", f"{found['source_perplexity']:.4f}",
        "0.000000", "100.0%",
    ]  # fmt: skip
    assert main(["verify", str(out), "--against", str(NANO)]) == 0


def test_a_row_stays_whatever_its_text_is_called():
    found = Behaviour(tokens=3, perplexity=2.0)
    page = with_behaviour("# A card\n", Text("a---b.txt", "0" * 64, ()), found)
    page = with_behaviour(page, Text("other.txt", "1" * 64, ()), found)
    assert [row[0].split()[0] for row in rows(page)] == ["a---b.txt", "other.txt"]


def test_behaviour_and_text_belong_together(native, tmp_path, text, capsys):
    assert main(["verify", str(native), "--level", "behaviour"]) == 2
    assert main(["verify", str(native), "--text", str(text)]) == 2
    assert "needs a text" in capsys.readouterr().err
    (tmp_path / "empty.txt").touch()
    arguments = ["--level", "behaviour", "--text", str(tmp_path / "empty.txt")]
    assert main(["verify", str(native), *arguments]) == 2
    assert "than expected, 2 or more" in capsys.readouterr().err
