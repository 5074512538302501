"""benchmarks/quantised.py on a small model: masters beside what they round to."""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from benchmarks import quantised, record
from dsv4_mlx.loading import load
from dsv4_mlx.testing.checkpoints import TINY
from dsv4_mlx.testing.tokenizers import write_tokenizer
from dsv4_mlx.training import evaluation
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.starting_point import dense_parameters
from dsv4_mlx.training.stored_weights import write_release

SMALL = TINY.replace(num_hidden_layers=2, n_routed_experts=4, compress_ratios=(0, 4, 0))
UNTRAINED = ("tid2eid", "e_score_correction_bias")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release written from masters, its trainer's state beside it."""
    folder = tmp_path_factory.mktemp("small")
    parameters = initial_parameters(SMALL, 0)
    write_release(folder, SMALL, parameters, shard_bytes=1 << 30)
    write_tokenizer(folder, vocab_size=SMALL.vocab_size)
    state = {f"parameters/{n}": v for n, v in parameters.items() if not n.endswith(UNTRAINED)}
    mx.save_safetensors(str(folder / "state.safetensors"), state)
    state["parameters/model.norm.weight"] = state["parameters/model.norm.weight"] + 1
    mx.save_safetensors(str(folder / "other.safetensors"), state)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator:
    yield load(folder, backend="cpu")[0]


def test_a_model_of_masters_differs_by_its_weights_alone(model, folder: Path) -> None:
    fresh = quantised.with_masters(model, folder / "state.safetensors")
    masters, found = initial_parameters(SMALL, 0), dense_parameters(fresh)
    assert all(mx.array_equal(found[name], value).item() for name, value in masters.items())
    tokens = mx.array([[5, 6, 7, 8, 9, 10, 11, 12]])
    assert fresh.numerics is model.numerics
    difference = np.abs(np.array(fresh(tokens)) - np.array(model(tokens)))
    assert 0 < difference.max() < 5


def test_masters_of_another_model_are_refused(model, folder: Path) -> None:
    with pytest.raises(quantised.CheckpointError, match=r"model\.norm\.weight differs; take"):
        quantised.with_masters(model, folder / "other.safetensors")


def test_the_command_writes_rows_for_both_forms(folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(evaluation, "_MAX_TOKENS", 2)
    arguments = [str(folder), "--count", "1", "--kinds", "arithmetic", "--masters"]
    assert quantised.main([*arguments, str(folder / "state.safetensors")]) == 0
    rows = record.earlier("quantised")
    assert [(row["weights"], row["mode"]) for row in rows] == [
        (weights, mode) for mode in ("chat", "thinking") for weights in ("stored", "masters")
    ]
    assert all(
        row["tasks"] == "1" and 0 <= int(row["accepted"]) < int(row["drafted"]) for row in rows
    )
    stored, masters = rows[:2]
    assert stored["drafted"] == masters["drafted"]
    assert quantised.main([*arguments, str(folder / "other.safetensors")]) == 1
    assert "differs" in capsys.readouterr().err


def test_the_table_says_what_rounding_lost(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert quantised.table() == "No model with its masters was measured yet."
    row = {"kind": "talk", "mode": "chat", "tasks": 50, "drafted": 30, "accepted": 29}
    for weights, right in (("stored", 9), ("masters", 48), ("stored", 47)):
        told = row | {"folder": "nano", "weights": weights, "right": right}
        record.record("quantised", "c", [told], quantised.FIELDS)
    record.record("quantised", "c", [told | {"kind": "help"}], quantised.FIELDS)
    (line,) = quantised.table().splitlines()[2:]
    assert line == "| talk, Non-Think | 50 | 48 | 47 | 2.0 | 29 of 30 | 29 of 30 |"
