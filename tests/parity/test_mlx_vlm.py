"""Live comparison of DSpark's drafts with mlx-vlm's drafter, in float32 and without roundings.

mlx-vlm keeps more context than the window after a call with several taps that reach beyond it, so
its blocks are compared where it does not: its window is filled in few calls, and then it gets one
tap a call. Its logits and ours are off from `tests.oracle.dspark_numpy`, in float64, by at most
3e-6 with the golden drafter, whose logits reach 2, and by 1.2e-5 with the checkpoint, whose logits
reach 10 (15 blocks); so twice the sum of both is allowed there.
"""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.loading import load_model
from dsv4_mlx.model.dspark import DraftedBlock
from dsv4_mlx.model.dspark_drafts import DSparkDrafts
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.testing.checkpoints import TINY, dequantized_tensors, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.model import dspark_golden
from tests.model.dspark_golden import CONFIG
from tests.parity import mlx_vlm_drafter
from tests.parity.mlx_vlm_drafter import Drafter

pytestmark = [pytest.mark.parity, pytest.mark.timeout(900)]

GOLDEN, CHECKPOINT = 1e-5, 5e-5


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with mlx_vlm_drafter.alone():
        yield


def test_the_golden_drafter_drafts_alike() -> None:
    """In all rounds: the same drafts, and the same logits of every row."""
    for rounds in dspark_golden.ROUNDS.values():
        ours, theirs = dspark_golden.block(), Drafter(CONFIG, dspark_golden.official_weights())
        cache, seen = ours.make_cache(), 0
        for count, anchor, drafts, _, _ in rounds:
            taps = dspark_golden.taps(seen, seen + count)
            ours.absorb(taps, cache)
            for part in in_calls(taps, seen, CONFIG.sliding_window):
                found = theirs.block(part, anchor)
            seen += count
            check(ours.draft(anchor, cache), found, GOLDEN)
            assert found[0] == drafts


def test_a_checkpoint_is_read_alike_and_drafts_alike(tmp_path: Path) -> None:
    """Its stages are read from the release's files by both, its taps are our model's."""
    write_tiny_checkpoint(tmp_path, TINY, dspark=True, tokenizer=False)
    model = load_model(
        open_checkpoint(tmp_path), numerics=Numerics.PLAIN, backend="cpu", drafts=True
    )
    own = model.drafts()
    assert isinstance(own, DSparkDrafts)
    theirs = Drafter(model.config, dequantized_tensors(tmp_path))
    window, cache = model.config.sliding_window, own.block.make_cache()
    tokens = np.random.default_rng(5).integers(3, model.config.vocab_size, (1, window + 12))
    taps, seen = model.last_logits_and_features(mx.array(tokens))[1], 0
    for count in (window - 8, 5, 3, *[1] * 12):
        part, anchor = taps[:, seen : seen + count], int(tokens[0, -1 - seen])
        own.block.absorb(part, cache)
        seen += count
        check(own.block.draft(anchor, cache), theirs.block(part, anchor), CHECKPOINT)


def in_calls(taps: mx.array, seen: int, window: int) -> list[mx.array]:
    """What fits into the window in one call, and the rest one by one."""
    first = max(min(window - seen, taps.shape[1]), 0)
    parts = [taps[:, :first]] if first else []
    return parts + [taps[:, place : place + 1] for place in range(first, taps.shape[1])]


def check(ours: DraftedBlock, theirs: tuple[list[int], np.ndarray], atol: float) -> None:
    drafts, logits = theirs
    np.testing.assert_allclose(np.array(ours.logits), logits, rtol=0, atol=atol)
    assert ours.ids.tolist() == drafts
