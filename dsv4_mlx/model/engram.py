"""Engram: what the last tokens say, looked up in a table and added to the residual streams.

N-grams of compressed token ids are hashed to rows, the rows of a token become a key for each stream
and one value, and each stream takes the value as far as its key fits (arXiv:2601.07372, wired as in
V4.1: no convolution, no bias, at the beginning of a layer).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from dsv4_mlx.cache.last_ids import follow
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.state import LayerState
from dsv4_mlx.errors import UsageError
from dsv4_mlx.model.layers import Linear, MatrixLayer
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.packed import Packed, Packing
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.engram import SCALE_GROUP
from dsv4_mlx.release.engram_hash import NO_TOKEN, Ids, multipliers, row_numbers
from metal_kernels.ops import Ops

LookedUp = Callable[[], mx.array | None]
"""Gives the rows of every token side by side, float32 [B, S, width], once they are there; None for
padding alone."""
_PACKED_ROWS = Packing(SCALE_GROUP, 8, "mxfp8")


class RowTicket(Protocol):
    """Rows that were asked for."""

    def result(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Codes [..., columns] and scales [..., columns / 32], waited for; what reading raised."""
        ...


class SourceCounts(Protocol):
    """Rows that were there when they were wanted, kept or asked for ahead, and the others."""

    @property
    def kept(self) -> int: ...

    @property
    def ahead(self) -> int: ...

    @property
    def missed(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


class RowSource(Protocol):
    """The rows of a table that is not in memory."""

    @property
    def counts(self) -> SourceCounts:
        """What became of the rows that were requested so far."""
        ...

    def request(self, rows: Ids) -> RowTicket:
        """Begin to read rows [...] by number."""
        ...

    def ask_ahead(self, rows: Ids) -> None:
        """Begin to read rows [...] that a request will want."""
        ...


class EngramTable(MatrixLayer):
    """Rows by number: int [...] -> float32 [..., columns]; dense, or FP8 with a scale per 32."""

    def __call__(self, rows: mx.array) -> mx.array:
        matrix = self.matrix()
        if isinstance(matrix, mx.array):
            return matrix[rows].astype(mx.float32)
        return Packed(matrix.weight[rows], matrix.scales[rows], None, matrix.packing).unpack()

    def to_quantized(
        self, group_size: int | None = None, bits: int | None = None, mode: str = "affine", **_: Any
    ) -> MatrixLayer:
        """As any matrix's; one of zeros from 2^31 numbers on, which MLX does not quantize."""
        rows, columns = self.weight.shape
        if rows * columns < 1 << 31:
            return super().to_quantized(group_size, bits, mode)
        self.weight = self.weight[:1]
        layer = super().to_quantized(group_size, bits, mode)
        layer.weight = mx.zeros((rows, layer.weight.shape[1]), mx.uint32)
        layer.scales = mx.zeros((rows, layer.scales.shape[1]), layer.scales.dtype)
        return layer


class Engram(nn.Module):
    """The table of one layer, the product that reads it, and the gate of every stream."""

    def __init__(self, config: DeepseekV4Config, layer: int, numerics: Numerics, ops: Ops):
        super().__init__()
        assert config.engram is not None
        self._facts, self._layer = config.engram, layer
        N, D = config.hc_mult, config.hidden_size
        self.table = EngramTable(self._facts.table_rows(layer), self._facts.head_dim)
        self.kv_proj = Linear(self._facts.width, (N + 1) * D)
        self.q_weight = mx.ones((N, D))
        self.k_weight = mx.ones((N, D))
        self._multipliers = mx.array(multipliers(self._facts, layer), mx.int64)
        self._primes = mx.array(self._facts.primes(layer), mx.int64)
        self._ops, self._official = ops, numerics is Numerics.OFFICIAL
        self._source: RowSource | None = None
        self._token_map: mx.array | None = None
        self._host_map: npt.NDArray[np.int32] | None = None
        if self._facts.compressed_vocab_size == config.vocab_size:
            self.use_token_map(np.arange(config.vocab_size, dtype=np.int32))

    def use_token_map(self, token_map: npt.NDArray[np.int32]) -> None:
        """Compress token ids as `token_map` [V] says."""
        self._host_map, self._token_map = token_map, mx.array(token_map)

    @property
    def token_map(self) -> npt.NDArray[np.int32] | None:
        """What `use_token_map` was given."""
        return self._host_map

    def stream_from(self, source: RowSource) -> None:
        """Read rows from `source` instead of a table in memory, which goes."""
        self._source = source
        self.pop("table", None)

    @property
    def source(self) -> RowSource | None:
        """What rows are read from where the table is not in memory."""
        return self._source

    def ask_ahead(self, tokens: Sequence[int], start: int, stop: int) -> None:
        """Begin to read what tokens `start` to `stop` of a timeline will look up, where rows are
        read from files."""
        if self._source is None or self._host_map is None:
            return
        text = np.full(self._facts.kept_tokens + stop - start, NO_TOKEN, np.int64)
        seen = tokens[max(0, start - self._facts.kept_tokens) : stop]
        text[text.size - len(seen) :] = seen
        self._source.ask_ahead(self._hashed(text))

    def look_up(self, tokens: mx.array, cache: LayerCache) -> LookedUp:
        """Ask for the rows of token ids [B, S], which come after those that `cache` remembers."""
        if self._token_map is None:
            raise UsageError(
                f"expected a token map for Engram's {self._facts.compressed_vocab_size} compressed "
                "ids but found none; load the model with its tokenizer, or call use_token_map."
            )
        B, S = tokens.shape
        groups = cache.groups(B, S, ahead=True)
        if not groups:
            return lambda: None
        if self._source is not None:
            return self._from_source(self._source, tokens, groups)
        rows = mx.zeros((B, S, self._facts.rows_per_token), mx.int32)
        for one, span, state in groups:
            part = tokens[one, span]
            before = self._before(state, part.shape[0])
            found, last = self._ops.engram_rows(
                part,
                before,
                self._token_map,
                self._multipliers,
                self._primes,
                pad_token_id=self._facts.pad_token_id,
            )
            follow(state, part, before, last)
            if found.shape == rows.shape:
                rows = found
            else:
                rows[one, span] = found
        return lambda: self.table(rows).reshape(B, S, -1)

    def __call__(self, streams: mx.array, looked_up: LookedUp | mx.array) -> mx.array:
        """Streams [B, S, N, D] -> the same with what was looked up, or with rows [B, S, width]."""
        if isinstance(looked_up, mx.array):
            return self._gated(streams, looked_up)
        if self._source is not None:
            mx.async_eval(streams)  # meanwhile rows are read
        rows = looked_up()
        return streams if rows is None else self._gated(streams, rows)

    def _gated(self, streams: mx.array, rows: mx.array) -> mx.array:
        B, S, N, D = streams.shape
        kv = self.kv_proj(rows).reshape(B, S, N + 1, D)
        return self._ops.engram_gate(
            streams, kv, self.q_weight, self.k_weight, official=self._official
        )

    def _before(self, state: LayerState, rows: int) -> mx.array:
        """The ids before the state's next token, int32 [rows, kept_tokens]."""
        if state.ids is not None:
            return state.ids
        return mx.full((rows, self._facts.kept_tokens), NO_TOKEN, mx.int32)

    def _from_source(
        self, source: RowSource, tokens: mx.array, groups: list[tuple[slice, slice, LayerState]]
    ) -> LookedUp:
        """Hash on the host, where the tokens have to be known, and begin to read."""
        B, S = tokens.shape
        rows = np.zeros((B, S, self._facts.rows_per_token), np.int64)
        for one, span, state in groups:
            part = tokens[one, span]
            before = self._before(state, part.shape[0])
            text = np.concatenate([np.array(before), np.array(part)], axis=1).astype(np.int64)
            rows[one, span] = self._hashed(text)
            last = text[:, text.shape[1] - before.shape[1] :]
            follow(state, part, before, mx.array(last.astype(np.int32)))
        ticket = source.request(rows)

        def wait() -> mx.array:
            codes, scales = ticket.result()
            packed = mx.array(codes).view(mx.uint32)
            return Packed(packed, mx.array(scales), None, _PACKED_ROWS).unpack().reshape(B, S, -1)

        return wait

    def _hashed(self, text: Ids) -> Ids:
        """Rows of the tokens of a text [..., kept_tokens + S] by raw ids."""
        assert self._host_map is not None
        known = (text >= 0) & (text < len(self._host_map))
        ids = np.where(known, self._host_map[np.where(known, text, 0)], NO_TOKEN)
        pad = int(self._host_map[self._facts.pad_token_id])
        return row_numbers(self._facts, self._layer, ids, pad)


def engram_of(config: DeepseekV4Config, layer: int, numerics: Numerics, ops: Ops) -> Engram | None:
    """What layer number `layer` looks up with; None where it has none."""
    if config.engram is None or layer not in config.engram.layer_ids:
        return None
    return Engram(config, layer, numerics, ops)
