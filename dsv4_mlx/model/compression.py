"""What a layer keeps of the tokens before its window: entries, and which of them a query attends.

A raw row is what the compressors of a layer project of one token, C float32 columns: values and
scores of the entry's channels and, where the layer has an indexer, values and scores of the key's.
Raw rows [B, n, C] wait in a ring until their windows close. Beside them, from the same input, come
the weights of the index heads, which are used at once.
"""

import mlx.core as mx

from dsv4_mlx.cache import ring
from dsv4_mlx.cache.forms import kept_rows, raw_width
from dsv4_mlx.cache.state import LayerState
from dsv4_mlx.model.compressor import Compressor
from dsv4_mlx.model.indexer import Indexer
from dsv4_mlx.model.layers import Joined, Linear
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.rope import RotaryEmbedding
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_roles import LayerRole
from metal_kernels.ops import Ops


class Compression(Compressor):
    """The compressor of a layer's entries and, where its role selects, the indexer beside it."""

    indexer: Indexer | None

    def __init__(
        self,
        config: DeepseekV4Config,
        role: LayerRole,
        numerics: Numerics,
        ops: Ops,
        rope: RotaryEmbedding,
    ):
        super().__init__(
            config,
            role,
            width=config.head_dim,
            rounding="kv" if numerics is Numerics.OFFICIAL else "none",
            ops=ops,
            rope=rope,
        )
        self.indexer = None
        if role.selects:
            self.indexer = Indexer(config, role, numerics, ops, rope, self.columns.stop)
        self.raw_rows = Joined(self._projections)
        self._raw_width, self._kept = raw_width(config, role), kept_rows(role)

    def _projections(self) -> list[Linear]:
        """The layers of a raw row's columns in their order, then that of the head weights."""
        if self.indexer is None:
            return [self.kv_proj, self.gate_proj]
        keys = self.indexer
        head_weights = keys.scorer.weights_proj
        return [self.kv_proj, self.gate_proj, keys.kv_proj, keys.gate_proj, head_weights]

    def selects(self, length: int) -> bool:
        """Whether `length` tokens have more entries than a query may attend."""
        return self.indexer is not None and self.indexer.selects(length)

    def take(
        self, raw: mx.array, index_q: mx.array | None, state: LayerState
    ) -> tuple[mx.array | None, mx.array | None]:
        """Take new tokens into `state`; stored entries [B, T, ...] and selected ones [B, n, k].

        raw [B, n, ...]: what `raw_rows` gives of the tokens. No entries are None, and so is a
        selection where every query attends all that it sees.
        """
        position, stop, storage = state.position, state.position + raw.shape[1], state.layout.name
        moving = state.moving
        rows, origin = self._keep_open(raw[..., : self._raw_width], state)
        entries = state.entries
        assert entries is not None
        self.close(
            rows,
            entries,
            origin=origin,
            position=position,
            stop=stop,
            storage=storage,
            moving=moving,
        )
        indexer, pool = self.indexer, state.keys
        if indexer is None or pool is None:
            return entries.rows(), None
        indexer.close(
            rows, pool, origin=origin, position=position, stop=stop, storage=storage, moving=moving
        )
        if not indexer.selects(stop):
            return entries.rows(), None  # every visible entry is among the top k
        keys, head_weights = pool.rows(), raw[..., self._raw_width :]
        assert index_q is not None and keys is not None
        place = position if moving is None else moving.position
        return entries.rows(), indexer.select(index_q, head_weights, keys, place)

    def _keep_open(self, rows: mx.array, state: LayerState) -> tuple[mx.array, int]:
        """Keep raw rows until their window closes; rows for the windows that close now, origin."""
        position, before = state.position, state.open_rows
        if not state.one_call:
            state.write_open(rows, self._kept)
            if rows.shape[1] == 1:
                assert state.open_rows is not None
                return state.open_rows, 0
        earlier = min(position, position % self.ratio + self._kept - self.ratio)
        return ring.followed_by(before, rows, position, earlier), position - earlier
