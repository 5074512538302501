"""From the inference code's and transformers' spelling of config.json to the official one.

Both work on parsed keys and rename or fold them; what the values may be is checked later, when
`config_spellings` reads the official spelling.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

from dsv4_mlx.errors import ConfigError
from dsv4_mlx.files.documents import shown
from dsv4_mlx.files.fields import without_nulls
from dsv4_mlx.release.layer_roles import COMPRESS_RATIOS

Keys = dict[str, Any]

_LAYER_TYPES = dict(
    zip(
        ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"),
        COMPRESS_RATIOS,
        strict=True,
    )
)

# The inference code's names for the same numbers.
_INFERENCE_NAMES = {
    "dim": "hidden_size",
    "hc_eps": "hc_eps",
    "hc_mult": "hc_mult",
    "moe_inter_dim": "moe_intermediate_size",
    "n_activated_experts": "num_experts_per_tok",
    "n_hash_layers": "num_hash_layers",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
    "norm_eps": "rms_norm_eps",
    "rope_head_dim": "qk_rope_head_dim",
    "route_scale": "routed_scaling_factor",
    "score_func": "scoring_func",
    "window_size": "sliding_window",
}

# That file leaves these to the inference code's own defaults, the same in every release.
_INFERENCE_DEFAULTS: Keys = {
    "beta_fast": 32,
    "beta_slow": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hc_eps": 1e-6,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "norm_eps": 1e-6,
    "num_nextn_predict_layers": 1,
}


def from_inference(keys: Keys) -> Keys:
    """Rename the inference code's keys to the official config's."""
    keys = _INFERENCE_DEFAULTS | keys
    missing = [key for key in ("original_seq_len", "rope_factor") if key not in keys]
    if missing:
        raise ConfigError(f"config.json has no {missing[0]}, which its rope needs.")
    # What the files hold and how large a test run may be: no part of the model.
    for key in ("dtype", "scale_fmt", "scale_dtype", "max_batch_size", "max_seq_len"):
        keys.pop(key, None)
    blocks = keys.pop("n_mtp_layers", None)
    # DSpark counts its draft stages there, while its config.json still says one block.
    if blocks is not None and "dspark_block_size" not in keys:
        keys["num_nextn_predict_layers"] = blocks
    scaling = {
        "type": "yarn",
        "factor": keys.pop("rope_factor"),
        "original_max_position_embeddings": keys.pop("original_seq_len"),
        "beta_fast": keys.pop("beta_fast"),
        "beta_slow": keys.pop("beta_slow"),
    }
    renamed = {_INFERENCE_NAMES.get(key, key): value for key, value in keys.items()}
    renamed["rope_scaling"] = scaling
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    if _is_number(factor) and _is_number(original):
        renamed.setdefault("max_position_embeddings", int(factor * original))
    return renamed


def from_transformers(keys: Keys) -> Keys:
    """Fold transformers' derived keys into the official ones; without them a no-op."""
    keys = dict(keys)
    _fold_layer_types(keys)
    _fold_mlp_layer_types(keys)
    _fold_rope_parameters(keys)
    _fold_partial_rotary_factor(keys)
    for alias, name in (("num_local_experts", "n_routed_experts"),
                        ("intermediate_size", "moe_intermediate_size")):  # fmt: skip
        if alias in keys:
            agree(keys, name, keys.pop(alias))
    return keys


def _fold_layer_types(keys: Keys) -> None:
    rates = keys.pop("compress_rates", None)
    rates = as_object("compress_rates", _LAYER_TYPES if rates is None else rates)
    for short, name in (("csa", "compressed_sparse_attention"),
                        ("hca", "heavily_compressed_attention")):  # fmt: skip
        rates[name] = keys.pop(f"compress_rate_{short}", rates.get(name))
    for name, rate in rates.items():
        if rate != _LAYER_TYPES.get(name):
            raise ConfigError(
                f"compress_rates.{name} is {shown(rate)}; DeepSeek-V4 knows "
                f"{_LAYER_TYPES.get(name, 'no such layer type')}."
            )
    types = keys.pop("layer_types", None)
    if types is None:
        return
    types = as_list("layer_types", types)
    unknown = [name for name in types if not isinstance(name, str) or name not in _LAYER_TYPES]
    if unknown:
        raise ConfigError(
            f"layer_types names {shown(unknown[0])}; expected {', '.join(_LAYER_TYPES)}."
        )
    ratios = [_LAYER_TYPES[name] for name in types]
    given = keys.get("compress_ratios")
    if given is not None and as_list("compress_ratios", given)[: len(ratios)] != ratios:
        raise ConfigError("layer_types and compress_ratios disagree; keep the right one.")
    # transformers lists the backbone only; a prediction block is ratio 0 in every V4.
    drafts = keys.get("num_nextn_predict_layers")
    count = min(drafts, len(ratios)) if isinstance(drafts, int) else 0
    keys.setdefault("compress_ratios", ratios + [0] * count)


def _fold_mlp_layer_types(keys: Keys) -> None:
    types = keys.pop("mlp_layer_types", None)
    if types is None:
        return
    types = as_list("mlp_layer_types", types)
    hashed = types.count("hash_moe")
    if types != ["hash_moe"] * hashed + ["moe"] * (len(types) - hashed):
        raise ConfigError("mlp_layer_types must be hash_moe layers followed by moe layers.")
    agree(keys, "num_hash_layers", hashed)


def _fold_rope_parameters(keys: Keys) -> None:
    nested = keys.pop("rope_parameters", None)
    if nested is None:
        return
    nested = as_object("rope_parameters", nested)
    if set(nested) != {"main", "compress"}:
        raise ConfigError("rope_parameters must hold exactly 'main' and 'compress'.")
    main = as_object("rope_parameters.main", nested["main"])
    compress = as_object("rope_parameters.compress", nested["compress"])
    for part, theta in ((main, "rope_theta"), (compress, "compress_rope_theta")):
        if "rope_theta" in part:
            agree(keys, theta, part.pop("rope_theta"))
        if "partial_rotary_factor" in part:
            agree(keys, "partial_rotary_factor", part.pop("partial_rotary_factor"))
    if rope_type(main) != "default" or main:
        raise ConfigError("rope_parameters.main must be plain rope: layers without entries scale "
                          "nothing.")  # fmt: skip
    if keys.get("rope_scaling") is None:
        keys["rope_scaling"] = compress


def _fold_partial_rotary_factor(keys: Keys) -> None:
    factor, head_dim = keys.pop("partial_rotary_factor", None), keys.get("head_dim")
    if factor is None or not isinstance(head_dim, int):
        return
    if not _is_number(factor):
        raise ConfigError(f"partial_rotary_factor is {shown(factor)}; expected a number.")
    # Truncated, as transformers does it; the key itself, where present, is exact.
    rope = keys.setdefault("qk_rope_head_dim", int(head_dim * factor))
    if isinstance(rope, int) and abs(rope - head_dim * factor) >= 1:
        raise ConfigError(
            f"qk_rope_head_dim is {rope}, but partial_rotary_factor says {head_dim * factor}."
        )


def agree(keys: Keys, name: str, value: object) -> None:
    """Set `name`, or check that the file says the same in both places."""
    if keys.setdefault(name, value) != value:
        raise ConfigError(f"{name} is given twice, as {shown(keys[name])} and {shown(value)}.")


def rope_type(parameters: Keys) -> object:
    """Take out `type` and `rope_type`, two names of one thing."""
    kinds = [parameters.pop(key) for key in ("type", "rope_type") if key in parameters]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise ConfigError(
            f"rope is said to be of two types, {shown(kinds[0])} and {shown(kinds[1])}."
        )
    return kinds[0] if kinds else "default"


def as_object(name: str, value: object) -> Keys:
    """A copy of a JSON object, without what is null."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {shown(value)}; expected an object.")
    return without_nulls(value)


def as_list(name: str, value: object) -> list[Any]:
    """A copy of a JSON array."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} is {shown(value)}; expected a list.")
    return list(value)


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a product with it is a number that a whole one can be made of."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
