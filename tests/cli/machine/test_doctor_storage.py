"""What the doctor tells of a model's disk: where experts are read from it, or when it is asked."""

from dataclasses import replace
from pathlib import Path

import pytest

from cli.machine.disk_speed import Measuring
from cli.machine.doctor_report import Page
from cli.machine.doctor_storage import Storage, is_streamed
from cli.machine.memory import Fit
from cli.machine.volumes import Volume
from dsv4_mlx.sizing.weight_bytes import streamed_weights, weight_bytes
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import Checkpoint, open_checkpoint
from tests.cli.machines import GIB, mac

INTERNAL = Volume("Data", "apfs", "internal", "Apple Fabric")
# Bytes of an expert, many times what they are.
LARGE = 1 << 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    config = TINY.replace(num_hidden_layers=1, compress_ratios=(4, 0), num_hash_layers=0)
    return open_checkpoint(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), config))


def fit_on(checkpoint: Checkpoint, memory: float) -> Fit:
    """The checkpoint on a Mac whose GPU may use `memory` bytes."""
    machine = replace(mac(192), wirable=int(memory))
    return Fit(checkpoint.folder, checkpoint.config, weight_bytes(checkpoint), machine, "metal")


def needs(checkpoint: Checkpoint) -> tuple[int, int]:
    """Bytes with all in memory, and the fewest with experts on the disk."""
    weights = streamed_weights(checkpoint)
    context = checkpoint.config.max_position_embeddings
    whole = fit_on(checkpoint, 1).needed(context)
    experts = checkpoint.config.n_routed_experts
    return whole, weights.needed(min(16, experts) * weights.slot_bytes, context)


class Clock:
    """Moves a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def page_of(checkpoint: Checkpoint, fit: Fit, storage: Storage) -> Page:
    page = Page()
    storage.add(page, checkpoint, fit, fit.machine)
    return page


def quick(**options: object) -> Storage:
    measuring = Measuring(seconds=20, pause=0, threads=1, clock=Clock())
    told = {"measuring": measuring, "tell": lambda line: None, "volume": lambda folder: INTERNAL}
    return Storage(**told | options)  # type: ignore[arg-type]


def test_a_model_that_fits_is_not_measured_and_neither_is_one_that_cannot_be_streamed(
    checkpoint: Checkpoint,
) -> None:
    weights = streamed_weights(checkpoint)
    for memory in (64 * GIB, 1):
        fit = fit_on(checkpoint, memory)
        assert not is_streamed(fit, weights)
        assert page_of(checkpoint, fit, quick()).facts == {}


def test_it_is_measured_where_it_is_asked_for_and_never_where_it_is_not_wanted(
    checkpoint: Checkpoint,
) -> None:
    told: list[str] = []
    fit = fit_on(checkpoint, 64 * GIB)
    page = page_of(checkpoint, fit, quick(wanted=True, tell=told.append))
    found = page.facts["storage"]
    assert found["streamed"] is False and found["expected"] is None
    assert found["measured"]["first"] > 0 and found["volume"]["name"] == "Data"
    assert page.lines[0] == ("storage", "the model lies on Data (apfs, internal, Apple Fabric)")
    assert "past the file cache" in page.lines[1][1] and len(page.lines) == 2
    assert page.problems == []  # slow as it is, nothing waits for it once the model is loaded
    assert told == ["measuring the model's disk for 40 s; --no-disk leaves that out"]
    assert page_of(checkpoint, fit, quick(wanted=False)).facts == {}


def streamed(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """On a machine that holds it streamed only: as if its experts were larger than they are."""
    weights = streamed_weights(checkpoint)
    slot = 8 * LARGE  # or the streams of a prompt would be larger than its experts
    large = replace(weights, slot_bytes=slot, file_bytes=LARGE)
    monkeypatch.setattr("cli.machine.doctor_storage.streamed_weights", lambda *_, **__: large)
    experts = checkpoint.config.n_routed_experts
    fit = replace(fit_on(checkpoint, 1), weights=weights.resident + 3 * experts * slot)
    context = checkpoint.config.max_position_embeddings
    machine = replace(fit.machine, wirable=large.needed(experts * slot, context))
    return replace(fit, machine=machine)


def test_a_streamed_model_is_measured_and_told_what_to_expect(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = streamed(checkpoint, monkeypatch)
    page = page_of(checkpoint, fit, quick())
    found = page.facts["storage"]
    assert found["streamed"] is True
    assert found["expected"]["slots"] == checkpoint.config.n_routed_experts
    assert "tokens/s expected" in page.lines[-1][1] and "neither is measured" in page.lines[-1][1]


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        (Volume("/Volumes/models", "smbfs", "network", "SMB"), "lies on /Volumes/models over SMB"),
        (Volume("/Volumes/nfs", "nfs", "network", "NFS"), "lies on /Volumes/nfs over NFS"),
        (INTERNAL, "the model's disk reads 0.00 GB/s, expected at least 1 GB/s"),
    ],
)
def test_slow_places_are_advised_against_with_what_to_expect_there(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, volume: Volume, sentence: str
) -> None:
    fit = streamed(checkpoint, monkeypatch)
    page = page_of(checkpoint, fit, quick(volume=lambda folder: volume))
    assert len(page.problems) == 1
    assert sentence in page.problems[0] and "copy the folder" in page.problems[0]
    assert "tokens/s expected here" in page.problems[0]


def test_a_file_that_is_gone_is_one_problem(checkpoint: Checkpoint, tmp_path: Path) -> None:
    gone = tmp_path / "gone.safetensors"
    entries = {name: replace(one, path=gone) for name, one in checkpoint.tensors.items()}
    page = page_of(replace(checkpoint, tensors=entries), fit_on(checkpoint, 64 * GIB),
                   quick(wanted=True))  # fmt: skip
    assert page.problems == [
        f"{gone} could not be read (No such file or directory); check its disk."
    ]
    assert page.facts["storage"]["measured"] is None
