"""The benchmark of experts in files: its counts, its ratios, and figures that are only expected."""

import pytest

from benchmarks import streamed_table, streaming
from benchmarks.streaming import measured, opener, prompt_of
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import Checkpoint, open_checkpoint
from tests.engine.small_models import SMALL

CONFIG = SMALL.replace(num_nextn_predict_layers=0, compress_ratios=(4, 128))
E, K = CONFIG.n_routed_experts, CONFIG.num_experts_per_tok


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("streaming") / "m", CONFIG)
    return open_checkpoint(folder)


class Clock:
    """Moves a second whenever it is read."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_counts_are_those_of_the_last_round_and_ratios_of_every_one(checkpoint: Checkpoint) -> None:
    found = measured(opener(checkpoint, "cpu"), K, prompt_of(CONFIG, 40), 3, 2, Clock())
    assert found.ratios == (1.0, 1.0)
    wanted = found.reply.hits + found.reply.misses
    # The last token asked for its experts of hash layers, and was not read.
    asked = 3 * K * CONFIG.num_hidden_layers
    assert asked <= wanted <= asked + K * CONFIG.num_hash_layers
    assert found.prompt.misses >= E * (CONFIG.num_hidden_layers - 1) - K
    assert found.reply.bytes_read * found.prompt.misses == (
        found.prompt.bytes_read * found.reply.misses
    )
    row = found.row()
    assert row["in memory"] == f"{K} of {E}" and row["ratio"] == "1.00"


def test_the_command_prints_a_table(
    checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(checkpoint.folder)
    options = ["--tokens", "1", "--rounds", "1", "--backend", "cpu", "--slots", str(E - 1)]
    streaming.main(["--model", folder, *options])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"| {E - 1} of {E} | ")


@pytest.mark.slow
def test_expected_figures_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    streaming.main(["--expected"])
    text = capsys.readouterr().out
    assert text.startswith("Expected of V4-Flash, computed and not measured:")
    assert text.split("\n\n", 1)[1] in streamed_table.PAGE.read_text(encoding="utf-8")
