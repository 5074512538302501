"""What two machines together have room for beside a model's layers."""

from collections.abc import Sequence
from typing import Final

from dsv4_mlx.forming import SHORT_CONTEXT
from dsv4_mlx.peers.facts import RankFacts
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.sizing.costs import Costs, Kv

UNBOUNDED: Final = 1 << 62


def timeline_bytes(ranks: Sequence[RankFacts], config: DeepseekV4Config, kv: Kv) -> int:
    """Bytes of timelines, of all layers together, that both machines have room for: as many as the
    rank holds that is full first. A rank whose memory nobody tells bounds nothing."""
    longest = config.max_position_embeddings
    whole = Costs(config).cache_bytes(longest, kv)
    rooms = [UNBOUNDED]
    for one in ranks:
        if one.memory is None:
            continue
        costs = Costs(config, LayerRange(*one.layers, config.num_hidden_layers))
        counted = costs.cache_bytes(min(SHORT_CONTEXT, longest), kv)  # in what it needs
        room = max(0, one.memory - (one.needed - counted))
        rooms.append(room * whole // max(1, costs.cache_bytes(longest, kv)))
    return min(rooms)
