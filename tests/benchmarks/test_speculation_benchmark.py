"""benchmarks/speculation.py on a tiny model: equal replies, counted bytes, and what ends a run."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import speculation
from dsv4_mlx.engine.draft_history import DraftUse
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from tests.engine.small_models import SMALL


def options(folder: Path, *more: str) -> argparse.Namespace:
    return speculation.parsed(["--model", str(folder), "--backend", "cpu", *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"), SMALL)


def test_replies_are_equal_and_counted(folder: Path) -> None:
    asked = options(folder, "--tokens", "6", "--prompts", "code", "--draft-max", "2")
    (row,) = speculation.measured(asked)
    assert set(row) == set(speculation.FIELDS)
    assert row["tokens"] == row["passes"] + row["accepted"] == 6
    assert row["bytes_per_token_without"] == Costs(SMALL).bytes_per_token()
    assert row["bytes_per_token_with"] > 0 and float(row["with_s"]) > 0
    assert "6 tokens in" in speculation.line(row)


def test_bytes_are_those_of_the_passes() -> None:
    costs, one = Costs(FLASH), Costs(FLASH).bytes_per_token()
    plain = DraftUse(passes=4)
    assert speculation.pass_bytes(costs, plain, "mtp") == 4 * one
    two = DraftUse(passes=2, drafted=6, accepted=3)
    expected = 2 * (costs.bytes_of_rows(4) + costs.bytes_of_drafts("mtp", 3))
    assert speculation.pass_bytes(costs, two, "mtp") == expected
    expected = 2 * (costs.bytes_of_rows(4) + costs.bytes_of_drafts("mtp", 3, packed_head=True))
    assert speculation.pass_bytes(costs, two, "mtp", packed_head=True) == expected
    uneven = DraftUse(passes=2, drafted=3)  # one draft, and two
    expected = costs.bytes_of_rows(2) + costs.bytes_of_rows(3)
    assert abs(speculation.pass_bytes(costs, uneven, "lookup") - expected) <= 1


def test_a_reply_that_differs_ends_the_run() -> None:
    token = speculation.Token(3, -1.0)
    one = speculation.Timed([token] * 3, 1.0, 1.0, None)
    speculation.checked([one, one], "code")
    changed = replace(one, tokens=[token, token, replace(token, logprob=-1.5)])
    with pytest.raises(AssertionError, match="at token 2 of reply 1; drafts changed a reply"):
        speculation.checked([one, changed], "code")


def test_a_kind_that_a_model_has_not_is_refused(folder: Path) -> None:
    with pytest.raises(speculation.UsageError, match="dspark"):
        next(speculation.measured(options(folder, "--draft", "dspark")))


def test_prompts_that_there_are_not_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert speculation.main(["--prompts", "code,song"]) == 2
    assert "but found song" in capsys.readouterr().out
