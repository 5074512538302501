"""The whole program with a model whose experts stay in files."""

import json
from pathlib import Path

import pytest

from dsv4_mlx.sizing.weight_bytes import streamed_weights
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.expert_trace import read_trace
from tests.cli.running import run
from tests.engine.small_models import SMALL

K, E, LAYERS = SMALL.num_experts_per_tok, SMALL.n_routed_experts, SMALL.num_hidden_layers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("answers") / "m", SMALL)


def size_of(folder: Path, slots: float) -> str:
    """Memory for so many experts of each layer, as a person writes it."""
    return f"{slots * streamed_weights(open_checkpoint(folder)).slot_bytes / 1000:.3f}KB"


def line(folder: Path, *options: object) -> tuple[object, ...]:
    return ("--model", folder, "--backend", "cpu", "--max-tokens", "4", "--temp", "0", *options)


def test_an_answer_is_the_same_and_says_what_was_found(folder: Path, tmp_path: Path) -> None:
    asked = ("-p", "What is it? " * 20, "--json")
    whole = run(*line(folder, *asked))
    trace = tmp_path / "trace.csv"
    memory = ("--expert-memory", size_of(folder, K + 0.5), "--expert-trace", trace)
    done = run(*line(folder, *asked, *memory))
    assert done.status == 0, done.stderr
    records, expected = (
        [json.loads(text) for text in one.stdout.splitlines()] for one in (done, whole)
    )
    said = [
        [one for one in these if one["type"].endswith("delta")] for these in (records, expected)
    ]
    assert said[0] == said[1] and said[0]
    layers = [one["layers"] for one in records if one["type"] == "progress" and "layers" in one]
    assert layers == [[layer, LAYERS] for layer in range(LAYERS + 1)]
    experts = records[-1]["experts"]
    assert experts["slots"] == K and experts["misses"] >= E * (LAYERS - 1)
    assert "experts" not in expected[-1]
    assert f"experts are read from the disk: {K} of {E} of each layer are in memory" in done.stderr
    assert {choice.layer for choice in read_trace(trace)} == set(range(LAYERS))


def test_the_doctor_tells_what_replies_of_the_last_run_found(folder: Path, tmp_path: Path) -> None:
    home = {"DSV4_HOME": str(tmp_path / "home")}
    looked = ("doctor", "--model", folder, "--backend", "cpu", "--no-disk", "--json")
    assert "expert_use" not in json.loads(run(*looked, variables=home).stdout)["model"]
    asked = ("-p", "What is it?", "--json", "--expert-memory", size_of(folder, K + 0.5))
    run(*line(folder, *asked, "--no-save"), variables=home)
    assert "expert_use" not in json.loads(run(*looked, variables=home).stdout)["model"]
    done = run(*line(folder, *asked), variables=home)
    found = json.loads(run(*looked, variables=home).stdout)["model"]["expert_use"]
    tokens = json.loads(done.stdout.splitlines()[-1])["usage"]["completion_tokens"]
    assert found["slots"] == K and found["hits"] + found["misses"] == K * LAYERS * (tokens - 1)
    page = run(*looked[:-1], variables=home).stdout
    share = found["hits"] / (found["hits"] + found["misses"])
    assert f"{K} of each layer in memory) found {share:.0%} of {K * LAYERS * (tokens - 1)}" in page


def test_what_cannot_be_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    asked = ("-p", "Hi")
    few = run(*line(folder, *asked, "--expert-memory", size_of(folder, K - 0.5)))
    assert few.status == 2 and f"the {K} experts of a token" in few.stderr
    large = run(*line(folder, *asked, "--expert-trace", tmp_path / "trace.csv"))
    assert large.status == 2 and "give --expert-memory SIZE with --expert-trace" in large.stderr
    draft = ("--expert-memory", size_of(folder, K), "--draft", "mtp")
    drafted = run(*line(folder, *asked, *draft))
    assert drafted.status == 2
    assert "experts that are streamed" in drafted.stderr.splitlines()[-1]
