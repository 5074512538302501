"""How the cache stores rows changes no number: compact rows hold the rounding done anyway."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import dsv4_mlx
from dsv4_mlx.errors import UsageError
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.spellings import config_of
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.model import running, small


def official(folder: Path, kv: str | None) -> Model:
    return load_model(
        open_checkpoint(folder),
        dtype=mx.float32,
        numerics=Numerics.OFFICIAL,
        backend="cpu",
        kv=kv,
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.slow] * (one != "tiny")) for one in running.CHECKPOINTS],
)
def test_both_give_the_same_logits_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Through prefill, chunks and single tokens, with entries that are selected."""
    folder = running.checkpoint_folder(name, tmp_path)
    compact, bf16 = official(folder, "compact"), official(folder, "bf16")
    ids = np.random.default_rng(0).integers(2, compact.config.vocab_size, 300)
    parts = running.pieces(ids, [150, 7, 1, 1, 1, 130, 1, 1, 8])
    found, expected = (running.feed(model, model.make_cache(), parts) for model in (compact, bf16))
    np.testing.assert_array_equal(found, expected)


def test_compact_is_the_default_and_takes_about_half(tmp_path: Path) -> None:
    folder = running.checkpoint_folder("tiny512", tmp_path)
    held = {}
    for kv in (None, "compact", "bf16"):
        model = official(folder, kv)
        cache = model.make_cache()
        running.feed(model, cache, [small.TOKENS[:130]])
        held[kv] = sum(a.nbytes for layer in cache for a in layer.rows[0].fixed()[:1])
        held[kv] += sum(p.rows().nbytes for layer in cache for p in layer.rows[0].pools())
    assert held[None] == held["compact"] < 0.6 * held["bf16"]


@pytest.mark.parametrize("kv", ["compact", "bf16"])
def test_the_draft_block_keeps_rows_as_the_model_does(tmp_path: Path, kv: str) -> None:
    model = official(running.checkpoint_folder("tiny", tmp_path), kv)
    assert model.mtp[0].make_cache().layout == model.layout


def test_plain_numerics_refuse_both() -> None:
    config = config_of(small.CONFIG)
    for kv in ("compact", "bf16"):
        with pytest.raises(UsageError, match=f"kv is '{kv}', but plain numerics round nothing"):
            Model(config, Numerics.PLAIN, backend="cpu", kv=kv)
    assert Model(config, Numerics.PLAIN, backend="cpu").layout.name == "float32"


def test_another_choice_is_refused() -> None:
    with pytest.raises(UsageError, match="kv is 'fp16', expected compact or bf16"):
        dsv4_mlx.load(running.NANO, kv="fp16")
