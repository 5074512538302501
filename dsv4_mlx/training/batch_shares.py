"""What the rows of one worker are of a batch whose other rows are elsewhere.

Losses are means over the whole batch, and so is the load of experts. Each worker computes means
over its own rows; times its shares they add up to those of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dsv4_mlx.training.muon import Parameters

Summed = Callable[[np.ndarray], np.ndarray]
"""Numbers of one worker, float64 [n] -> their sums over all workers, the same in each."""


@dataclass(frozen=True)
class BatchShares:
    """Factors of one worker's means, and the loads of the whole batch."""

    nll: float
    mtp: float
    rows: float
    loads: Parameters
    """Share of the chosen places that each expert got, [E] by the name of the router's bias."""
    queries: mx.array
    """Of each learning indexer, float32 [L]."""

    @classmethod
    def alone(cls, loads: Parameters, queries: mx.array) -> BatchShares:
        """Those of a worker that has every row."""
        return cls(1.0, 1.0, 1.0, loads, mx.ones(queries.shape))

    @classmethod
    def among(
        cls,
        summed: Summed,
        weights: np.ndarray,
        routed: Mapping[str, int],
        loads: Parameters,
        queries: mx.array,
    ) -> BatchShares:
        """Those of one worker of several, each of which calls this at the same time.

        `weights` [B, S + 2] are what its tokens are worth as targets, `routed` and `loads` how many
        places its tokens chose and each expert's share of them, by the name of the router's bias,
        `queries` [L] how many queries each learning indexer was judged by.
        """
        own = [weights[:, 1:-1].sum(dtype=float), weights[:, 2:].sum(dtype=float), len(weights)]
        counts = [np.rint(np.array(loads[name], float) * size) for name, size in routed.items()]
        judged = np.array(queries, float)
        whole = summed(np.concatenate([own, *counts, judged]))
        nll, mtp = (max(own[i], 1.0) / max(whole[i], 1.0) for i in range(2))
        found, at = {}, len(own)
        for name, one in zip(routed, counts, strict=True):
            places = whole[at : at + len(one)]
            found[name] = mx.array(places.astype(np.float32)) / float(places.sum())
            at += len(one)
        share = np.maximum(judged, 1.0) / np.maximum(whole[at:], 1.0)
        rows = len(weights) / whole[2]
        return cls(nll, mtp, rows, found, mx.array(share.astype(np.float32)))
