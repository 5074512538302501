"""The ops of a plan: every kernel by name, with its reference's signature.

Written by `make pages`.
"""

from typing import Protocol

import mlx.core as mx

from metal_kernels.backend import Backend
from metal_kernels.shared.rows import RowStorage


class Ops(Protocol):
    """What a model calls; a plan binds each op to its implementation."""

    @property
    def backend(self) -> Backend: ...

    @property
    def exact_rows(self) -> int:
        """Rows of a call up to which each has the bits that it has alone.

        Above 1 products of so many rows are this project's own; at 1 packed ones are MLX's.
        """

    def embed_streams(
        self,
        tokens: mx.array,
        table: mx.array,
        streams: int,
    ) -> mx.array:
        """Rows of the embedding by token id, one for each residual stream."""

    def engram_rows(
        self,
        tokens: mx.array,
        history: mx.array,
        token_map: mx.array,
        multipliers: mx.array,
        primes: mx.array,
        *,
        pad_token_id: int,
    ) -> tuple[mx.array, mx.array]:
        """Rows of Engram's tables for the N-grams that end at each token."""

    def engram_gate(
        self,
        streams: mx.array,
        kv: mx.array,
        q_weight: mx.array,
        k_weight: mx.array,
        *,
        official: bool,
    ) -> mx.array:
        """Add what Engram looked up to every stream, as far as its key fits."""

    def dense_matvec(
        self,
        x: mx.array,
        weight: mx.array,
    ) -> mx.array:
        """Few rows times a dense bfloat16 or float32 weight."""

    def packed_matvec(
        self,
        x: mx.array,
        codes: mx.array,
        scales: mx.array,
        biases: mx.array | None = None,
        *,
        bits: int,
        group_size: int,
    ) -> mx.array:
        """One to eight rows times a packed weight."""

    def hc_pre(
        self,
        streams: mx.array,
        fn: mx.array,
        base: mx.array,
        scale: mx.array,
        norm_weight: mx.array,
        *,
        iters: int,
        hc_eps: float,
        norm_eps: float,
        official: bool,
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Norm + mix + Sinkhorn + collapse + RMSNorm."""

    def hc_post(
        self,
        y: mx.array,
        streams: mx.array,
        post: mx.array,
        comb: mx.array,
        routed: mx.array | None = None,
        *,
        official: bool,
    ) -> mx.array:
        """Expand the sublayer output and mix the residual streams."""

    def hc_post_pre(
        self,
        y: mx.array,
        streams: mx.array,
        post: mx.array,
        comb: mx.array,
        fn: mx.array,
        base: mx.array,
        scale: mx.array,
        norm_weight: mx.array,
        *,
        iters: int,
        hc_eps: float,
        norm_eps: float,
        official: bool,
    ) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """Expansion after one sublayer, collapse and RMSNorm before the next."""

    def hc_head(
        self,
        streams: mx.array,
        fn: mx.array,
        base: mx.array,
        scale: mx.array,
        norm_weight: mx.array,
        *,
        hc_eps: float,
        norm_eps: float,
        official: bool,
    ) -> mx.array:
        """Collapse the streams before the head, with the final norm."""

    def qkv_prepare(
        self,
        projected: mx.array,
        q_norm_weight: mx.array,
        kv_norm_weight: mx.array,
        cos: mx.array,
        sin: mx.array,
        *,
        eps: float,
        official: bool,
        storage: RowStorage,
    ) -> tuple[mx.array, mx.array]:
        """RMS norms of the query residual and window latent + RoPE + rounding + storage."""

    def q_prepare(
        self,
        projected: mx.array,
        cos: mx.array,
        sin: mx.array,
        *,
        heads: int,
        width: int,
        index_heads: int,
        index_width: int,
        eps: float,
        official: bool,
    ) -> tuple[mx.array, mx.array | None]:
        """Per-head RMS norm + RoPE of the queries; RoPE + Hadamard + FP4 of the index queries."""

    def compress(
        self,
        rows: mx.array,
        bias: mx.array,
        norm_weight: mx.array,
        cos: mx.array,
        sin: mx.array,
        *,
        origin: int | mx.array,
        first_window: int | mx.array,
        windows: int,
        ratio: int,
        kv_column: int,
        gate_column: int,
        eps: float,
        rounding: str,
        storage: RowStorage,
    ) -> mx.array:
        """Windows of token projections in, pooled, normed, rotated and stored entries out."""

    def index_topk(
        self,
        index_q: mx.array,
        head_weights: mx.array,
        keys: mx.array,
        *,
        first_position: int | mx.array,
        ratio: int,
        k: int,
        scale: float,
    ) -> mx.array:
        """Lightning-indexer scores and exact top-k, ties to the lowest index."""

    def sparse_attention(
        self,
        q: mx.array,
        window: mx.array,
        sinks: mx.array,
        cos: mx.array,
        sin: mx.array,
        entries: mx.array | None = None,
        selected: mx.array | None = None,
        *,
        first_position: int | mx.array,
        origin: int,
        ratio: int,
        sliding_window: int,
        official: bool,
    ) -> mx.array:
        """Sinks attention over window and selected entries, with inverse RoPE."""

    def router(
        self,
        x: mx.array,
        weight: mx.array,
        bias: mx.array,
        *,
        k: int,
        scaling: float,
    ) -> tuple[mx.array, mx.array]:
        """Sqrtsoftplus scores, biased exact top-k, normalised weights."""

    def hash_router(
        self,
        x: mx.array,
        weight: mx.array,
        table: mx.array,
        tokens: mx.array,
        *,
        scaling: float,
    ) -> tuple[mx.array, mx.array]:
        """Experts from the token id, weights from the scores."""

    def expert_matmul(
        self,
        x: mx.array,
        codes: mx.array,
        scales: mx.array,
        experts: mx.array,
        rows: mx.array | None = None,
    ) -> mx.array:
        """Rows sorted by expert times the experts' MXFP4 matrices."""

    def expert_matvec(
        self,
        x: mx.array,
        codes: mx.array,
        scales: mx.array,
        experts: mx.array,
        biases: mx.array | None = None,
        *,
        bits: int,
        group_size: int,
    ) -> mx.array:
        """One to eight tokens times the packed matrices of their experts."""

    def swiglu(
        self,
        gate_up: mx.array,
        weights: mx.array | None = None,
        shared: mx.array | None = None,
        *,
        limit: float,
    ) -> mx.array | tuple[mx.array, mx.array]:
        """Clamped SwiGLU of routed and shared experts times the routing weight."""

    def expert_sum(
        self,
        routed: mx.array,
        shared: mx.array,
        *,
        official: bool,
    ) -> mx.array:
        """Routed and shared expert outputs added, rounded once."""
