"""The check before loading: what fits, what does not, and what to do about it."""

from dataclasses import replace
from pathlib import Path

import pytest

from cli.machine.machine import Machine
from cli.machine.memory import Fit, check
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.release.config import FLASH, PRO
from dsv4_mlx.sizing.recipe_sizes import RECIPES
from dsv4_mlx.testing.checkpoints import LONG, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint, open_folder
from tests.cli.machines import GIB, linux, mac

SHORT = LONG.replace(max_position_embeddings=16_384)
SIZES = RECIPES["V4-Flash"]


def fit(recipe: str, machine: Machine, kv: str = "compact") -> Fit:
    backend = "metal" if machine.is_mac else "cpu"
    return Fit(Path("flash"), FLASH, SIZES[recipe], machine, backend, kv)  # type: ignore[arg-type]


def measured(folder: Path, machine: Machine) -> Fit:
    return Fit.of(open_checkpoint(folder), backend="cpu", machine=machine)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), SHORT)


def test_what_fits_is_loaded(folder: Path) -> None:
    check(open_folder(folder), machine=mac(64))
    check(open_folder(folder), 8_192, "bf16", machine=linux(4))


def test_what_cannot_fit_is_refused_with_figures(folder: Path) -> None:
    with pytest.raises(UsageError) as error:
        check(open_folder(folder), backend="cpu", machine=linux(1))
    sentence = str(error.value)
    assert sentence.startswith(f"{folder} needs 2.0 GiB of memory (weights ")
    assert "at 8,192 tokens, program 2.0 GiB) and 1.0 GiB may be used here: " in sentence
    assert sentence.endswith("take a smaller model or a larger machine.")
    assert "\n" not in sentence


def test_a_container_counts(folder: Path) -> None:
    files = {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": str(GIB)}
    with pytest.raises(UsageError, match=r"1\.0 GiB may be used here"):
        check(open_folder(folder), backend="cpu", machine=linux(64, files))


def test_the_asked_context_decides(folder: Path) -> None:
    """Memory for a short conversation with this model, and not for its longest."""
    one = measured(folder, linux(64))
    gib = one.needed(9_000) / GIB
    check(open_folder(folder), 8_192, backend="cpu", machine=linux(gib))
    with pytest.raises(UsageError, match=r"a context of [\d,]+ tokens fits\.$"):
        check(open_folder(folder), SHORT.max_position_embeddings, backend="cpu", machine=linux(gib))


def test_a_folder_that_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a model folder"):
        check(open_folder(tmp_path), machine=linux(1))


def test_a_raised_limit_is_the_exact_command() -> None:
    """V4-Flash in 3 bits needs 124.3 GiB at 8,192 tokens; a Mac with 128 GB can give 120."""
    assert fit("q2", mac(128)).fits(8_192)
    assert fit("q3", mac(128)).command(8_192) is None
    one = fit("q3", mac(144))
    assert not one.fits(8_192)
    assert one.needed(8_192) / GIB == pytest.approx(124.335, abs=0.001)
    assert one.command(8_192) == "sudo sysctl iogpu.wired_limit_mb=128000"
    assert one.sentence(8_192).endswith(
        "108.0 GiB may be used here: `sudo sysctl iogpu.wired_limit_mb=128000` allows it."
    )


def test_the_command_allows_what_it_promises() -> None:
    for gib in range(96, 513, 8):
        for recipe in SIZES:
            one = fit(recipe, mac(gib))
            line = one.command(8_192)
            if line is not None:
                raised = int(line.partition("=")[2])
                assert fit(recipe, mac(gib, raised)).fits(8_192)
                assert raised <= (gib - 8) * 1024


def test_a_smaller_recipe_is_named() -> None:
    assert fit("native", mac(128)).remedy(8_192) == "its conversion with --recipe q2 fits"
    assert fit("native", mac(64)).remedy(8_192) == "take a smaller model or a larger machine"
    pro = Fit(Path("pro"), PRO, RECIPES["V4-Pro"]["native"], mac(512), "metal")
    assert pro.remedy(8_192) == "its conversion with --recipe q2 fits"


def test_a_machine_that_tells_nothing_is_trusted() -> None:
    unknown = replace(linux(1), memory=None)
    assert fit("native", unknown).fits(1 << 20)
    assert fit("native", unknown).longest() == 1 << 20


def test_the_longest_context_fits_and_one_more_step_does_not() -> None:
    one = fit("q2", mac(124))
    longest = one.longest()
    assert 0 < longest < 1 << 20
    assert one.fits(longest)
    assert not one.fits(longest + 1024)
    assert fit("q2", mac(124), "bf16").longest() < longest


def test_level_max_says_what_it_needs(tmp_path: Path, folder: Path) -> None:
    sentence = measured(folder, linux(64)).max_level_sentence()
    assert sentence == (
        "thinking level max asks for a context of at least 393,216 tokens; this checkpoint has "
        "16,384"
    )
    large = write_tiny_checkpoint(tmp_path, LONG)
    sentence = measured(large, linux(64)).max_level_sentence()
    assert sentence.startswith(
        "thinking level max asks for a context of at least 393,216 tokens: 2."
    )
    assert sentence.endswith("GiB of memory of 64.0 GiB that may be used")
    sentence = measured(large, linux(2.01)).max_level_sentence()
    assert "and 2.0 GiB may be used; a context of" in sentence
