"""Models small enough to decode a token in some milliseconds, with both kinds of draft weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.engine.session import Session
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DSpark
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint

SMALL = TINY.replace(
    hidden_size=64,
    num_hidden_layers=2,
    num_hash_layers=1,
    n_routed_experts=4,
    num_attention_heads=2,
    head_dim=64,
    qk_rope_head_dim=16,
    q_lora_rank=32,
    o_lora_rank=32,
    moe_intermediate_size=32,
    sliding_window=32,
    index_n_heads=4,
    index_head_dim=32,
    index_topk=512,  # as the release's, so that queries select after 2,052 tokens
    hc_sinkhorn_iters=1,
    compress_ratios=(4, 128, 0),
)
SELECTING = SMALL.replace(
    vocab_size=128,
    num_hidden_layers=3,
    sliding_window=TINY.sliding_window,
    index_topk=TINY.index_topk,  # queries select after some tokens already
    hc_sinkhorn_iters=2,
    compress_ratios=(0, 4, 128, 0),
)
"""A layer of each kind."""
WITH_STAGES = SMALL.replace(
    dspark=DSpark(5, SMALL.vocab_size - 1, (0, 1), 8), compress_ratios=(4, 128, 0, 0, 0)
)


def load_small_models(parent: Path) -> dict[str, Model]:
    """By name: `mtp` and `dspark`, whose draft weights these are; written to `parent`."""
    folders = {
        name: write_tiny_checkpoint(parent / name, config)
        for name, config in (("mtp", SMALL), ("dspark", WITH_STAGES))
    }
    return {name: load_with_drafts(folder) for name, folder in folders.items()}


def load_with_drafts(folder: Path) -> Model:
    return load_model(open_checkpoint(folder), dtype=mx.float32, backend="cpu", drafts=True)


def prompt_of(length: int, vocab_size: int) -> list[int]:
    """Ids with repeats, so that `lookup` finds something."""
    return [(7 * i * i + 3 * i) % 25 % vocab_size + 2 for i in range(length)]


def arrays(session: Session) -> list[np.ndarray]:
    """Every array of a session's state, and the logits after its last token."""
    snapshot = session.snapshot()
    rows = (row for rows in snapshot.state.layers for row in rows)
    found = [array for row in rows for _, array in sorted(row.arrays().items())]
    return [np.array(array) for array in [*found, snapshot.logits]]


def same(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    """Bit for bit, NaN equal to NaN."""
    return len(one) == len(other) and all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def on(engine: Any, trunk: Session) -> Session:
    """A session of `engine` that begins with `trunk`, whose model it shares."""
    timeline = trunk._timeline.fork()
    timeline.running = engine
    return Session(engine, timeline)
