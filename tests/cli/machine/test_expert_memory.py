"""Memory for experts: what is chosen, what is refused, and the figures of both."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cli.machine import expert_memory
from cli.machine.expert_memory import automatic, bytes_for_experts, fit_of, sentences
from cli.machine.machine import Machine
from cli.machine.memory import SHORT_CONTEXT, Fit
from dsv4_mlx.errors import UsageError
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.sizing.recipe_sizes import RECIPES
from dsv4_mlx.sizing.streamed import StreamedWeights
from dsv4_mlx.sizing.weight_bytes import streamed_weights, weight_bytes
from dsv4_mlx.testing.checkpoints import LONG, TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import ModelFolder, open_folder
from tests.cli.machines import GIB, linux, mac

# Layers enough that two whole ones and some experts of each are less than all of them.
CONFIG = TINY.replace(
    num_hidden_layers=8, compress_ratios=(4,) * 8 + (0,), num_hash_layers=0,
    max_position_embeddings=128, num_nextn_predict_layers=0,
)  # fmt: skip
CONTEXT = CONFIG.max_position_embeddings
E, K = CONFIG.n_routed_experts, CONFIG.num_experts_per_tok
EXPERT = 13_369_344
NATIVE = StreamedWeights(FLASH, 8_850_000_000, 7_790_000_000, 43 * EXPERT, 43 * EXPERT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return open_folder(write_tiny_checkpoint(tmp_path_factory.mktemp("experts"), CONFIG))


@pytest.fixture(autouse=True)
def looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's models are small, and are to be looked at like large ones."""
    monkeypatch.setattr(expert_memory, "is_small", lambda *_: False)


def weights(folder: ModelFolder) -> StreamedWeights:
    return streamed_weights(folder.checkpoint, dense=4)


def holding(folder: ModelFolder, slots: float) -> Machine:
    """A machine with room for so many experts of every layer."""
    sizes = weights(folder)
    needed = sizes.needed(int(slots * sizes.slot_bytes), CONTEXT)
    return linux(needed / GIB)


def chosen(folder: ModelFolder, machine: Machine, asked: int | str = "auto") -> int | None:
    return bytes_for_experts(folder, asked, backend="cpu", machine=machine)  # type: ignore[arg-type]


def refused(folder: ModelFolder, machine: Machine, asked: int | str = "auto") -> str:
    with pytest.raises(UsageError) as error:
        chosen(folder, machine, asked)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_that_fits_is_loaded_whole(folder: ModelFolder) -> None:
    assert chosen(folder, linux(64)) is None
    fit = Fit.of(folder.checkpoint, backend="cpu", machine=linux(64))
    assert chosen(folder, linux((fit.needed(CONTEXT) + 1024) / GIB)) is None


def test_one_that_does_not_gets_as_many_experts_as_there_is_room_for(folder: ModelFolder) -> None:
    one = weights(folder).slot_bytes
    assert chosen(folder, holding(folder, K + 1.5)) == (K + 1) * one
    assert chosen(folder, holding(folder, K + 0.5)) == K * one
    assert "take a smaller model" in refused(folder, holding(folder, K - 0.5))


# A Mac's GPU may use three quarters of its memory: 27, 36, 48 and 96 GiB.
@pytest.mark.parametrize(("gib", "slots"), [(36, 18), (48, 35), (64, 58), (128, 147)])
def test_flash_on_macs(gib: int, slots: int) -> None:
    fit = Fit(Path("flash"), FLASH, RECIPES["V4-Flash"]["native"], mac(gib), "metal")
    pools = automatic(fit, NATIVE)
    assert pools is not None and pools // NATIVE.slot_bytes == slots
    streamed = expert_memory.streamed(fit, NATIVE, pools)
    assert streamed.fits(SHORT_CONTEXT)
    one_more = expert_memory.streamed(fit, NATIVE, pools + NATIVE.slot_bytes)
    assert not one_more.fits(SHORT_CONTEXT)


@pytest.mark.parametrize("gib", [24, 32])
def test_too_few_experts_are_not_chosen(gib: int) -> None:
    fit = Fit(Path("flash"), FLASH, RECIPES["V4-Flash"]["native"], mac(gib), "metal")
    assert automatic(fit, NATIVE) is None


def test_nothing_is_chosen_where_a_card_has_memory_of_its_own() -> None:
    card = replace(linux(64), device=24 * GIB)
    fit = Fit(Path("flash"), FLASH, RECIPES["V4-Flash"]["native"], card, "cuda")
    assert automatic(fit, NATIVE) is None


def test_a_model_of_which_nothing_fits_is_refused_as_ever(folder: ModelFolder) -> None:
    said = refused(folder, linux(1))
    assert said.endswith("take a smaller model or a larger machine.")


def test_experts_that_would_fit_are_named_where_they_are_too_few(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = weights(folder)
    small = replace(sizes, resident=0, slot_bytes=sizes.slot_bytes // 2)
    monkeypatch.setattr(expert_memory, "_weights", lambda *_: small)
    monkeypatch.setattr(expert_memory, "enough_slots", lambda _: E)
    machine = linux((small.needed((K + 1) * small.slot_bytes, CONTEXT) + 1024) / GIB)
    said = refused(folder, machine)
    gb = (K + 1) * small.slot_bytes / 1e9
    assert said.endswith(
        f" With its experts on the disk {K + 1} of each layer would fit, fewer than {E}: "
        f"--expert-memory '{gb:.2f} GB' tries it, slowly."
    )


def test_a_size_that_fits_is_taken_as_it_is(folder: ModelFolder) -> None:
    asked = K * weights(folder).slot_bytes + 7
    assert chosen(folder, linux(64), asked) == asked
    assert chosen(folder, holding(folder, K + 0.5), asked) == asked
    everything = E * weights(folder).slot_bytes
    assert chosen(folder, linux(64), everything) == everything


def test_a_size_that_does_not_fit_is_refused_with_figures_and_not_cut(folder: ModelFolder) -> None:
    sizes = weights(folder)
    asked = (K + 2) * sizes.slot_bytes
    said = refused(folder, holding(folder, K + 1), asked)
    assert re.fullmatch(
        r"expert memory of [\d.]+ GB does not fit: [\d.]+ GiB are needed \(experts \d+ MiB, two "
        r"layers while a prompt is read \d+ MiB and its streams \d+ MiB, other weights \d+ MiB, "
        r"cache \d+ MiB at 128 tokens, program 2\.0 GiB\) and [\d.]+ GiB may be used here; give at "
        r"most [\d.]+ GB\.",
        said,
    )
    assert refused(folder, holding(folder, K - 1), K * sizes.slot_bytes).endswith(
        "; not even the experts of one token would."
    )


def test_less_than_a_token_needs_is_refused(folder: ModelFolder) -> None:
    asked = K * weights(folder).slot_bytes - 1
    assert f"the {K} experts of a token" in refused(folder, linux(64), asked)


def test_the_pools_count_in_what_is_told_of_the_context(folder: ModelFolder) -> None:
    sizes = weights(folder)
    pools = K * sizes.slot_bytes
    one = fit_of(folder.checkpoint, pools, backend="cpu")
    assert one.weights == sizes.resident + sizes.staging_bytes + pools
    whole = fit_of(folder.checkpoint, None, backend="cpu")
    assert whole.weights == weight_bytes(folder.checkpoint, dense=4)


def test_what_is_in_memory_is_a_sentence_and_too_little_another() -> None:
    (said,) = sentences(FLASH, 31, 31 * NATIVE.slot_bytes)
    assert said == (
        "experts are read from the disk: 31 of 256 of each layer are in memory (17.8 GB), and "
        "drafts are off"
    )
    _, warned = sentences(FLASH, 15, 15 * NATIVE.slot_bytes)
    assert "15 of 256" in warned and not warned.endswith(".")
    assert len(sentences(LONG, LONG.num_experts_per_tok, 1)) == 1
