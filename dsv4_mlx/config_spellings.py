"""The three spellings of a DeepSeek-V4 config.json, read into one ``DeepseekV4Config``.

* the official config.json of the release;
* the config.json of the official inference code (``dim``, ``n_layers``, ...);
* transformers' re-save of the first (``layer_types``, ``compress_rates``, ``rope_parameters``).

The last two are renamed to the first, and the first is read strictly: a key is known, ignored for
a reason that stands below, fixed to the one value this program implements, or an error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from dsv4_mlx.config import DeepseekV4Config, DSpark, RopeScaling
from dsv4_mlx.errors import ConfigError

Keys = dict[str, Any]

# Said of the training set-up, of Python classes or of files: nothing the forward pass depends on.
_IGNORED = frozenset(
    (
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "auto_map",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "problem_type",
        "quantization",
        "return_dict",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    )
)

# Fixed by the architecture: a file may spell them, with this value only.
_FIXED: Keys = {
    "attention_bias": False,
    "hidden_act": "silu",
    "mlp_bias": False,
    "model_type": "deepseek_v4",
    "norm_topk_prob": True,
    "num_key_value_heads": 1,
    "scoring_func": "sqrtsoftplus",
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
}

_DSPARK = {
    "dspark_block_size": "block_size",
    "dspark_noise_token_id": "noise_token_id",
    "dspark_target_layer_ids": "target_layer_ids",
    "dspark_markov_rank": "markov_rank",
}

_LAYER_TYPES = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}

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


def read(source: Mapping[str, object]) -> DeepseekV4Config:
    """The config that ``source``, a parsed config.json in any spelling, describes."""
    if not isinstance(source, Mapping):
        raise ConfigError(f"config.json holds a {type(source).__name__}; expected an object.")
    keys: Keys = dict(source)
    _refuse_other_models(keys)
    if "dim" in keys and "n_layers" in keys:
        keys = _from_inference(keys)
    else:
        keys = _from_transformers(keys)
    return _read_official(keys)


def write(config: DeepseekV4Config) -> Keys:
    """The official config.json of ``config``."""
    keys: Keys = {"architectures": ["DeepseekV4ForCausalLM"], **_FIXED}
    del keys["mlp_bias"]
    for field in fields(config):
        if field.name not in ("rope_scaling", "dspark"):
            keys[field.name] = getattr(config, field.name)
    keys["compress_ratios"] = list(config.compress_ratios)
    keys["rope_scaling"] = None
    if config.rope_scaling is not None:
        keys["rope_scaling"] = {"type": "yarn", **vars(config.rope_scaling)}
    if config.dspark is not None:
        values = {key: getattr(config.dspark, name) for key, name in _DSPARK.items()}
        keys |= values | {"dspark_target_layer_ids": list(config.dspark.target_layer_ids)}
    keys["quantization_config"] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128],
    }
    return dict(sorted(keys.items())) | {"torch_dtype": "bfloat16"}


def _refuse_other_models(keys: Keys) -> None:
    model_type = keys.get("model_type")
    if model_type == "deepseek_v41":
        raise ConfigError(
            "This is DeepSeek-V4.1 (model_type deepseek_v41), a different model: its shared "
            "compressed entries, delayed hyper-connections and Engram tables are missing here."
        )
    if model_type is not None and model_type != "deepseek_v4":
        raise ConfigError(f"model_type is {model_type!r}; this program runs 'deepseek_v4'.")
    architectures = keys.get("architectures")
    if architectures is not None and architectures != ["DeepseekV4ForCausalLM"]:
        raise ConfigError(
            f"architectures is {architectures!r}; this program runs DeepseekV4ForCausalLM."
        )
    if keys.get("vision_n_layers") == 0:
        keys.pop("vision_n_layers")
    vision = sorted(key for key in keys if key.startswith(("vision_", "image_")))
    if vision:
        raise ConfigError(
            f"This is a vision model ({', '.join(vision)}); image input and its routing are "
            "missing here."
        )
    _check_quantization(keys)


def _check_quantization(keys: Keys) -> None:
    """Accept the release's FP8 scheme or none; take transformers' ``expert_dtype`` out of it."""
    scheme = keys.pop("quantization_config", None)
    if scheme is None:
        return
    if not isinstance(scheme, Mapping):
        raise ConfigError(f"quantization_config is {scheme!r}; expected an object.")
    scheme = dict(scheme)
    method = scheme.pop("quant_method", None)
    if method != "fp8" or "moe_quant_algo" in scheme:
        found = scheme.get("moe_quant_algo", method)
        raise ConfigError(
            f"quantization_config says {found!r}; this program reads the release's own 'fp8' "
            "files (FP4 or FP8 experts), so use the official checkpoint."
        )
    expert_dtype = scheme.pop("expert_dtype", None)
    if expert_dtype is not None:
        _agree(keys, "expert_dtype", expert_dtype)
    allowed: dict[str, tuple[object, ...]] = {
        "activation_scheme": ("dynamic",),
        "dequantize": (False, True),
        "fmt": ("e4m3",),
        "scale_fmt": ("ue8m0", "float32", None),
        "weight_block_size": ([128, 128], (128, 128)),
    }
    if "weight_block_size" not in scheme:
        raise ConfigError("quantization_config has no weight_block_size; expected [128, 128].")
    for key, value in scheme.items():
        if key == "modules_to_not_convert":  # the stored dtypes say the same, exactly
            continue
        if key not in allowed:
            raise ConfigError(f"quantization_config has the unknown key {key!r}.")
        if value not in allowed[key]:
            raise ConfigError(
                f"quantization_config.{key} is {value!r}; DeepSeek-V4 has {allowed[key][0]!r}."
            )


def _from_inference(keys: Keys) -> Keys:
    """Rename the inference code's keys to the official config's."""
    keys = _INFERENCE_DEFAULTS | keys
    missing = [key for key in ("original_seq_len", "rope_factor") if key not in keys]
    if missing:
        raise ConfigError(f"config.json has no {missing[0]}, which its rope needs.")
    # What the files hold and how large a test run may be: no part of the model.
    for key in ("dtype", "scale_fmt", "scale_dtype", "max_batch_size", "max_seq_len"):
        keys.pop(key, None)
    # DSpark's inference config counts draft stages here; its config.json still says one.
    keys.pop("n_mtp_layers", None)
    scaling = {
        "type": "yarn",
        "factor": keys.pop("rope_factor"),
        "original_max_position_embeddings": keys.pop("original_seq_len"),
        "beta_fast": keys.pop("beta_fast"),
        "beta_slow": keys.pop("beta_slow"),
    }
    renamed = {_INFERENCE_NAMES.get(key, key): value for key, value in keys.items()}
    renamed["rope_scaling"] = scaling
    longest = scaling["factor"] * scaling["original_max_position_embeddings"]
    renamed.setdefault("max_position_embeddings", int(longest))
    return renamed


def _from_transformers(keys: Keys) -> Keys:
    """Fold transformers' derived keys into the official ones; without them a no-op."""
    keys = dict(keys)
    _fold_layer_types(keys)
    _fold_mlp_layer_types(keys)
    _fold_rope_parameters(keys)
    _fold_partial_rotary_factor(keys)
    for alias, name in (("num_local_experts", "n_routed_experts"),
                        ("intermediate_size", "moe_intermediate_size")):  # fmt: skip
        if alias in keys:
            _agree(keys, name, keys.pop(alias))
    return keys


def _fold_layer_types(keys: Keys) -> None:
    rates = keys.pop("compress_rates", None)
    rates = dict(_LAYER_TYPES if rates is None else rates)
    for short, name in (("csa", "compressed_sparse_attention"),
                        ("hca", "heavily_compressed_attention")):  # fmt: skip
        rates[name] = keys.pop(f"compress_rate_{short}", rates.get(name))
    for name, rate in rates.items():
        if rate != _LAYER_TYPES.get(name):
            raise ConfigError(
                f"compress_rates.{name} is {rate!r}; DeepSeek-V4 knows "
                f"{_LAYER_TYPES.get(name, 'no such layer type')}."
            )
    types = keys.pop("layer_types", None)
    if types is None:
        return
    unknown = [name for name in types if name not in _LAYER_TYPES]
    if unknown:
        raise ConfigError(f"layer_types names {unknown[0]!r}; expected {', '.join(_LAYER_TYPES)}.")
    ratios = [_LAYER_TYPES[name] for name in types]
    if list(keys.get("compress_ratios") or ratios)[: len(ratios)] != ratios:
        raise ConfigError("layer_types and compress_ratios disagree; keep the right one.")
    # transformers lists the backbone only; a prediction block is ratio 0 in every V4.
    drafts = keys.get("num_nextn_predict_layers")
    keys.setdefault("compress_ratios", ratios + [0] * (drafts if isinstance(drafts, int) else 0))


def _fold_mlp_layer_types(keys: Keys) -> None:
    types = keys.pop("mlp_layer_types", None)
    if types is None:
        return
    hashed = list(types).count("hash_moe")
    expected = ["hash_moe"] * hashed + ["moe"] * (len(types) - hashed)
    if list(types) != expected:
        raise ConfigError("mlp_layer_types must be hash_moe layers followed by moe layers.")
    _agree(keys, "num_hash_layers", hashed)


def _fold_rope_parameters(keys: Keys) -> None:
    nested = keys.pop("rope_parameters", None)
    if nested is None:
        return
    if not isinstance(nested, Mapping) or set(nested) != {"main", "compress"}:
        raise ConfigError("rope_parameters must hold exactly 'main' and 'compress'.")
    main, compress = dict(nested["main"]), dict(nested["compress"])
    for part, theta in ((main, "rope_theta"), (compress, "compress_rope_theta")):
        if "rope_theta" in part:
            _agree(keys, theta, part.pop("rope_theta"))
        if "partial_rotary_factor" in part:
            _agree(keys, "partial_rotary_factor", part.pop("partial_rotary_factor"))
    if _rope_type(main) != "default" or main:
        raise ConfigError("rope_parameters.main must be plain rope: layers without entries scale "
                          "nothing.")  # fmt: skip
    if keys.get("rope_scaling") is None:
        keys["rope_scaling"] = compress


def _fold_partial_rotary_factor(keys: Keys) -> None:
    factor, head_dim = keys.pop("partial_rotary_factor", None), keys.get("head_dim")
    if factor is None or not isinstance(head_dim, int):
        return
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        raise ConfigError(f"partial_rotary_factor is {factor!r}; expected a number.")
    # Truncated, as transformers does it; the key itself, where present, is exact.
    rope = keys.setdefault("qk_rope_head_dim", int(head_dim * factor))
    if isinstance(rope, int) and abs(rope - head_dim * factor) >= 1:
        raise ConfigError(
            f"qk_rope_head_dim is {rope}, but partial_rotary_factor says {head_dim * factor}."
        )


def _agree(keys: Keys, name: str, value: object) -> None:
    """Set ``name``, or check that the file says the same in both places."""
    if keys.setdefault(name, value) != value:
        raise ConfigError(f"{name} is given twice, as {keys[name]!r} and {value!r}.")


def _read_official(keys: Keys) -> DeepseekV4Config:
    for name, value in _FIXED.items():
        found = keys.pop(name, value)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise ConfigError(f"{name} is {found!r}; DeepSeek-V4 has {value!r}.")
    keys["dspark"] = _read_dspark(keys)
    keys["rope_scaling"] = _read_rope_scaling(keys.get("rope_scaling"))
    keys["compress_ratios"] = _read_ratios(keys)
    keys["eos_token_id"] = _read_eos(keys)
    known = {field.name: field for field in fields(DeepseekV4Config)}
    values = {name: keys.pop(name) for name in known if keys.get(name) is not None}
    left = sorted(key for key in keys if key not in _IGNORED and key not in known)
    if left:
        raise ConfigError(
            f"config.json has the unknown key {left[0]!r}; it may describe a later model, so "
            "nothing is assumed about it."
        )
    for name, field in known.items():
        if name not in values and field.default is MISSING and name != "rope_scaling":
            raise ConfigError(f"config.json has no {name}; the model cannot be built without it.")
    values.setdefault("rope_scaling", None)
    return DeepseekV4Config(**_with_floats(values, DeepseekV4Config))


def _read_ratios(keys: Keys) -> tuple[int, ...]:
    ratios = keys.get("compress_ratios")
    if ratios is None:
        raise ConfigError(
            "config.json has no compress_ratios (or layer_types); the kind of each layer is "
            "never guessed, so use the official config.json."
        )
    if isinstance(ratios, str) or not isinstance(ratios, Sequence):
        raise ConfigError(f"compress_ratios is {ratios!r}; expected one number per layer.")
    return tuple(ratios)


def _read_eos(keys: Keys) -> object:
    eos = keys.get("eos_token_id")
    return eos[0] if isinstance(eos, list) and len(eos) == 1 else eos


def _read_dspark(keys: Keys) -> DSpark | None:
    present = [key for key in _DSPARK if keys.get(key) is not None]
    if not present:
        return None
    if len(present) < len(_DSPARK):
        missing = next(key for key in _DSPARK if key not in present)
        raise ConfigError(f"config.json has {present[0]} but no {missing}.")
    values = {name: keys.pop(key) for key, name in _DSPARK.items()}
    if not isinstance(values["target_layer_ids"], list | tuple):
        raise ConfigError("dspark_target_layer_ids must be a list of layer numbers.")
    return DSpark(**values | {"target_layer_ids": tuple(values["target_layer_ids"])})


def _rope_type(parameters: Keys) -> object:
    """Take out ``type`` and ``rope_type``, two names of one thing."""
    kinds = {parameters.pop(key) for key in ("type", "rope_type") if key in parameters}
    if len(kinds) > 1:
        raise ConfigError(f"rope is said to be of two types: {sorted(map(str, kinds))}.")
    return kinds.pop() if kinds else "default"


def _read_rope_scaling(source: object) -> RopeScaling | None:
    if source is None:
        return None
    if not isinstance(source, Mapping):
        raise ConfigError(f"rope_scaling is {source!r}; expected an object.")
    values: Keys = dict(source)
    kind = _rope_type(values)
    # transformers writes these two out; only their neutral values are V4.
    for name, neutral in (("attention_factor", 1.0), ("truncate", True)):
        if values.pop(name, neutral) != neutral:
            raise ConfigError(f"rope_scaling.{name} must be {neutral}: V4 keeps cos and sin as is.")
    if kind == "default" and not values:
        return None
    if kind != "yarn":
        raise ConfigError(f"rope_scaling is of type {kind!r}; DeepSeek-V4 has 'yarn'.")
    known = {field.name for field in fields(RopeScaling)}
    if set(values) != known:
        wrong = sorted(set(values) ^ known)[0]
        raise ConfigError(
            f"rope_scaling: {wrong!r} is {'missing' if wrong in known else 'unknown'}."
        )
    return RopeScaling(**_with_floats(values, RopeScaling))


def _with_floats(values: Keys, kind: type) -> Keys:
    """Whole numbers in real-valued fields become floats; anything else is left to be checked."""
    real = {field.name for field in fields(kind) if field.type is float}
    return {
        name: float(value) if name in real and type(value) is int else value
        for name, value in values.items()
    }
