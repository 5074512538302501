"""How many experts of each layer a size of memory holds, and whether a model fits with them."""

from dsv4_mlx.errors import UsageError
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.sizing.costs import Kv
from dsv4_mlx.sizing.machines import memory_needed
from dsv4_mlx.sizing.passes import OFFICIAL_BYTES, stream_bytes
from dsv4_mlx.sizing.streamed import STAGED_LAYERS, enough_slots

_GB = 10**9


def expert_slots(config: DeepseekV4Config, layer_bytes: int, memory: int) -> int:
    """Slots of each layer in `memory` bytes, at most the experts there are.

    `layer_bytes` are those of one expert of every routed layer. UsageError below what one token
    needs.
    """
    k, slots = config.num_experts_per_tok, memory // layer_bytes
    if slots < k:
        raise UsageError(
            f"expected expert memory of at least {k * layer_bytes / _GB:.3g} GB, the {k} experts "
            f"of a token in each layer, but found {memory / _GB:.3g} GB, which holds {slots}; "
            "give more, or convert the model with a smaller recipe."
        )
    return min(slots, config.n_routed_experts)


def few_slots(config: DeepseekV4Config, slots: int) -> str:
    """A sentence where so few slots will be slow; "" where they are enough."""
    if slots >= (enough := enough_slots(config)):
        return ""
    return (
        f"expert memory holds {slots} of {config.n_routed_experts} experts in each layer, so that "
        f"most are read anew for every token; {enough} and more are much faster."
    )


def require_fitting(
    config: DeepseekV4Config,
    resident: int,
    slots: int,
    layer_bytes: int,
    limit: int | None,
    context: int,
    kv: Kv = "compact",
    number_bytes: int = OFFICIAL_BYTES,
) -> None:
    """UsageError where `resident` bytes of weights, `slots` of each layer, the layers that are
    staged for a prompt, its streams between layers, the cache of `context` tokens and working
    memory exceed `limit`, where somebody tells it. `layer_bytes` are as for `expert_slots`,
    `number_bytes` as for `stream_bytes`."""
    staged = config.n_routed_experts * layer_bytes * STAGED_LAYERS // config.num_hidden_layers
    slot_bytes = slots * layer_bytes
    weights = resident + slot_bytes + staged
    needed = memory_needed(config, weights, context, kv, by_layers=number_bytes)
    if limit is None or needed <= limit:
        return
    room = max(0, slot_bytes - (needed - limit))
    streams = stream_bytes(config, context, number_bytes)
    raise UsageError(
        f"expert memory of {slot_bytes / _GB:.3g} GB does not fit: with {resident / _GB:.3g} GB of "
        f"other weights, two layers of {staged / _GB:.3g} GB and streams of {streams / _GB:.3g} GB "
        f"while a prompt is read, the cache and working memory {needed / _GB:.3g} GB are needed "
        f"and {limit / _GB:.3g} GB may be used; give at most {room / _GB:.3g} GB."
    )
