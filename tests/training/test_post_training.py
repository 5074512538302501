"""The stages as runs: one command each, which goes on bit for bit, with scores and curves."""

from itertools import islice
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.testing.tokenizers import write_tokenizer
from dsv4_mlx.training.data.lessons import SHARES
from dsv4_mlx.training.data.tasks import tasks
from dsv4_mlx.training.post import main
from dsv4_mlx.training.scores import read_scores
from dsv4_mlx.training.stage import DOMAINS
from dsv4_mlx.training.starting_point import StartingPoint
from dsv4_mlx.training.stored_weights import rounded, stored_dtypes, write_release
from tests.training import tiny

SCORES = ["--max-tokens", "4", "--max-prompt", "300", "--score-prompts", "1", "--score-every", "2"]
SIZES = ["--prompts", "2", *SCORES]


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> list[Path]:
    """Two tiny models with one vocabulary, in the official format."""
    asked = [task.prompt() for task in islice(tasks("tools", "train", 0), 30)]
    texts = [text for prompt in asked for text, is_control in prompt.segments if not is_control]
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("base")
        write_tokenizer(folder, texts, tiny.TINY.vocab_size)
        trained, fixed = tiny.weights(seed)
        write_release(folder, tiny.TINY, trained | fixed, shard_bytes=1 << 30)
        folders.append(folder)
    return folders


def state(run: Path) -> dict[str, np.ndarray]:
    loaded = mx.load(str(run / "state.safetensors"))
    assert isinstance(loaded, dict)
    return {name: np.array(value) for name, value in loaded.items()}


def same(one: Path, other: Path) -> None:
    """Two runs ended with the same bits, curves and scores."""
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    assert all(np.array_equal(value, second[name]) for name, value in first.items())
    for name in ("curve.csv", "scores.csv"):
        assert (one / name).read_text() == (other / name).read_text()


def test_a_model_that_is_read_again_has_the_values_that_were_stored(bases):
    point = StartingPoint.of(bases[0])
    trained, fixed = tiny.weights(0)
    expected = rounded(trained, stored_dtypes(tiny.TINY))
    assert point.trained.keys() == trained.keys() and point.fixed.keys() == fixed.keys()
    again = rounded(point.trained, stored_dtypes(tiny.TINY))
    for name, value in expected.items():
        assert mx.array_equal(point.trained[name], value), name
        assert mx.array_equal(again[name], value), name
    assert all(mx.array_equal(point.fixed[name], value) for name, value in fixed.items())


@pytest.mark.slow
def test_sft_goes_on_bit_for_bit_and_moves_the_routers_biases(bases, tmp_path):
    def arguments(run: Path) -> list[str]:
        own = ["sft", str(run), "--from", str(bases[0]), "--expert", "arithmetic"]
        return [*own, "--steps", "2", "--rows", "1", "--length", "64", *SCORES]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(arguments(whole)) == 0
    assert main([*arguments(broken), "--hours", "0"]) == 3
    # After one step: a second one may take a bias back to where it began.
    moved = [v for name, v in state(broken).items() if name.startswith("buffers/")]
    assert moved and all(np.abs(value).max() > 0 for value in moved)
    assert main([*arguments(broken), "--hours", "0"]) == 0
    same(whole, broken)


def grpo(run: Path, base: Path) -> list[str]:
    own = ["grpo", str(run), "--from", str(base), "--group", "2", "--steps", "2"]
    return [*own, *SIZES]


@pytest.fixture(scope="module")
def whole_grpo(bases, tmp_path_factory) -> Path:
    """A run of GRPO that nothing interrupted."""
    run = tmp_path_factory.mktemp("runs") / "grpo"
    assert main(grpo(run, bases[0])) == 0
    return run


def test_grpo_goes_on_bit_for_bit_after_a_stop(bases, whole_grpo, tmp_path):
    # No hours at all: every call ends after one step.
    assert [main([*grpo(tmp_path, bases[0]), "--hours", "0"]) for _ in range(2)] == [3, 0]
    same(whole_grpo, tmp_path)


def test_a_run_leaves_scores_curves_and_a_model(bases, whole_grpo):
    assert {row.step for row in read_scores(whole_grpo / "scores.csv")} == {0, 2}
    for name in ("loss", "reward", "kl", "scores"):
        assert (whole_grpo / f"{name}.svg").read_text().startswith("<svg")
    trained = StartingPoint.of(whole_grpo / "model").trained
    base = StartingPoint.of(bases[0]).trained
    assert any(not mx.array_equal(value, base[name]) for name, value in trained.items())


def test_a_run_is_not_continued_from_another_model(bases, whole_grpo, capsys):
    assert main(grpo(whole_grpo, bases[1])) == 1
    assert "was begun" in capsys.readouterr().err


@pytest.mark.slow
def test_distillation_goes_on_bit_for_bit_and_scores_its_teachers(bases, tmp_path):
    def arguments(run: Path) -> list[str]:
        given = {"arithmetic": bases[1], "tools": bases[0], "rest": bases[0]}
        teachers = [f"--teacher={name}={base}" for name, base in given.items()]
        own = ["distill", str(run), "--from", str(bases[0]), *teachers, "--peak", "0.01"]
        return [*own, "--steps", "2", *SIZES, "--max-prompt", "1500"]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(arguments(whole)) == 0
    assert [main([*arguments(broken), "--hours", "0"]) for _ in range(2)] == [3, 0]
    same(whole, broken)
    scored = {(row.step, row.model) for row in read_scores(whole / "scores.csv")}
    teachers = {(0, "arithmetic"), (0, "tools"), (0, "rest")}
    assert scored == {*teachers, (0, "student"), (2, "student")}
    taught = {row.kind for row in read_scores(whole / "scores.csv")}
    assert taught == {kind for kinds in DOMAINS.values() for kind in kinds}


def test_every_kind_of_task_is_of_one_domain():
    assert sorted(kind for kinds in DOMAINS.values() for kind in kinds) == sorted(SHARES)


def test_what_cannot_be_run_is_a_sentence(bases, tmp_path, capsys):
    assert main(["grpo", str(tmp_path), "--from", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    updates = ["--updates", "3", "--from", str(bases[0])]
    assert main(["grpo", str(tmp_path), *updates]) == 1
    assert "multiples of updates 3" in capsys.readouterr().err
    short = [*grpo(tmp_path, bases[0]), "--max-prompt", "5"]
    assert main(short) == 1
    assert "raise --max-prompt" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["distill", str(tmp_path), "--from", str(bases[0]), "--teacher", "tools"])
    assert "DOMAIN=FOLDER" in capsys.readouterr().err
