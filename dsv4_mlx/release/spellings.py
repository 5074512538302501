"""The three spellings of a DeepSeek-V4 config.json, read into one `DeepseekV4Config`.

* the official config.json of the release;
* the config.json of the official inference code (`dim`, `n_layers`, ...);
* transformers' re-save of the first (`layer_types`, `compress_rates`, `rope_parameters`).

The last two are renamed to the first, and the first is read strictly: a key is known, ignored for
a reason that stands below, fixed to the one value this program implements, or an error.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields

from dsv4_mlx.errors import ConfigError
from dsv4_mlx.files.documents import as_double, shown
from dsv4_mlx.files.fields import Fields, without_nulls
from dsv4_mlx.release.config import DeepseekV4Config, DSpark, RopeScaling
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.ignored import IGNORED
from dsv4_mlx.release.tensors import FP8_BLOCK
from dsv4_mlx.release.translations import (
    Keys,
    agree,
    as_list,
    as_object,
    from_inference,
    from_transformers,
    rope_type,
)

# Fixed by the architecture: a file may spell them, with this value only.
_FIXED: Keys = {
    "attention_bias": False,
    "first_k_dense_replace": 0,
    "hidden_act": "silu",
    "mlp_bias": False,
    "model_type": "deepseek_v4",
    "moe_layer_freq": 1,
    "n_group": 1,
    "norm_topk_prob": True,
    "num_key_value_heads": 1,
    "scoring_func": "sqrtsoftplus",
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
}

# Of those, what other models' programs add and no release has.
_NOT_WRITTEN = ("first_k_dense_replace", "mlp_bias", "moe_layer_freq", "n_group", "topk_group")

_BLOCK_SIZE = (FP8_BLOCK, FP8_BLOCK)

_DSPARK = {
    "dspark_block_size": "block_size",
    "dspark_noise_token_id": "noise_token_id",
    "dspark_target_layer_ids": "target_layer_ids",
    "dspark_markov_rank": "markov_rank",
}


def config_of(source: Mapping[str, object]) -> DeepseekV4Config:
    """The config that `source`, a parsed config.json in any of the three spellings, describes.

    Every key is known, knowingly ignored, or a ConfigError that names it.
    """
    if not isinstance(source, Mapping):
        raise ConfigError(f"config.json holds a {type(source).__name__}; expected an object.")
    keys: Keys = without_nulls(source)
    _refuse_other_models(keys)
    from_inference_code = "dim" in keys and "n_layers" in keys
    return _read_official((from_inference if from_inference_code else from_transformers)(keys))


def keys_of(config: DeepseekV4Config) -> Keys:
    """The official config.json of `config`; `config_of` reads it back."""
    keys: Keys = {"architectures": ["DeepseekV4ForCausalLM"], **_FIXED}
    for name in _NOT_WRITTEN:
        del keys[name]
    for field in fields(config):
        if field.name not in ("rope_scaling", "dspark", "other_stop_ids", "engram"):
            keys[field.name] = getattr(config, field.name)
    if config.other_stop_ids:
        keys["eos_token_id"] = list(config.stop_token_ids)
    keys["compress_ratios"] = list(config.compress_ratios)
    keys["rope_scaling"] = None
    if config.rope_scaling is not None:
        keys["rope_scaling"] = {"type": "yarn", **vars(config.rope_scaling)}
    if config.dspark is not None:
        values = {key: getattr(config.dspark, name) for key, name in _DSPARK.items()}
        keys |= values | {"dspark_target_layer_ids": list(config.dspark.target_layer_ids)}
    if config.engram is not None:
        keys["engram"] = _engram_keys(config.engram)
    keys["quantization_config"] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "scale_fmt": "ue8m0",
        "weight_block_size": list(_BLOCK_SIZE),
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
        raise ConfigError(f"model_type is {shown(model_type)}; this program runs 'deepseek_v4'.")
    architectures = keys.get("architectures")
    if architectures is not None and architectures != ["DeepseekV4ForCausalLM"]:
        raise ConfigError(
            f"architectures is {shown(architectures)}; this program runs DeepseekV4ForCausalLM."
        )
    if keys.get("vision_n_layers") == 0:
        keys.pop("vision_n_layers")
    vision = sorted(key for key in keys if key.startswith(("vision_", "image_")))
    if vision:
        raise ConfigError(
            f"This is a vision model ({', '.join(vision[:3])}); image input and its routing are "
            "missing here."
        )
    _check_quantization(keys)


def _check_quantization(keys: Keys) -> None:
    """Accept the release's FP8 scheme or none; take transformers' `expert_dtype` out of it."""
    scheme = keys.pop("quantization_config", None)
    # mlx-lm writes its own key a second time under the name of transformers.
    if scheme is None or scheme == keys.get("quantization"):
        return
    scheme = as_object("quantization_config", scheme)
    method = scheme.pop("quant_method", None)
    if method != "fp8" or "moe_quant_algo" in scheme:
        found = scheme.get("moe_quant_algo", method or scheme)
        raise ConfigError(
            f"quantization_config says {shown(found)}; this program reads the release's own 'fp8' "
            "files (FP4 or FP8 experts), so use the official checkpoint."
        )
    expert_dtype = scheme.pop("expert_dtype", None)
    if expert_dtype is not None:
        agree(keys, "expert_dtype", expert_dtype)
    allowed: dict[str, tuple[object, ...]] = {
        "activation_scheme": ("dynamic",),
        "dequantize": (False, True),
        "fmt": ("e4m3",),
        "scale_fmt": ("ue8m0", "float32", None),
        "weight_block_size": (list(_BLOCK_SIZE), _BLOCK_SIZE),
    }
    if "weight_block_size" not in scheme:
        raise ConfigError(
            f"quantization_config has no weight_block_size; expected {list(_BLOCK_SIZE)}."
        )
    for key, value in scheme.items():
        # What is not converted is what the stored dtypes say, exactly.
        if key in ("modules_to_not_convert", "ignored_layers") or key.startswith("_"):
            continue
        if key not in allowed:
            raise ConfigError(f"quantization_config has the unknown key {shown(key)}.")
        if value not in allowed[key]:
            raise ConfigError(
                f"quantization_config.{key} is {shown(value)}; DeepSeek-V4 has {allowed[key][0]!r}."
            )


def _read_official(keys: Keys) -> DeepseekV4Config:
    for name, value in _FIXED.items():
        found = keys.pop(name, value)
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise ConfigError(f"{name} is {shown(found)}; DeepSeek-V4 has {value!r}.")
    keys["dspark"] = _read_dspark(keys)
    keys["engram"] = _read_engram(keys.get("engram"))
    keys["rope_scaling"] = _read_rope_scaling(keys.get("rope_scaling"))
    keys["compress_ratios"] = _read_ratios(keys)
    keys |= _read_eos(keys)
    known = {field.name: field for field in fields(DeepseekV4Config)}
    values = {name: keys.pop(name) for name in known if keys.get(name) is not None}
    left = sorted(
        key for key in keys if key not in IGNORED and key not in known and not key.startswith("_")
    )
    if left:
        raise ConfigError(
            f"config.json has the unknown key {shown(left[0])}; it may describe a later model, so "
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
    return tuple(as_list("compress_ratios", ratios))


def _read_eos(keys: Keys) -> Keys:
    """The first of the tokens that end a reply, and the others."""
    eos = Fields(keys, "config.json", error=ConfigError).ids("eos_token_id")
    return {"eos_token_id": eos[0], "other_stop_ids": eos[1:]} if eos else {}


def _read_dspark(keys: Keys) -> DSpark | None:
    present = [key for key in _DSPARK if keys.get(key) is not None]
    if not present:
        for key in _DSPARK:
            keys.pop(key, None)
        return None
    if len(present) < len(_DSPARK):
        missing = next(key for key in _DSPARK if key not in present)
        raise ConfigError(f"config.json has {present[0]} but no {missing}.")
    values = {name: keys.pop(key) for key, name in _DSPARK.items()}
    layers = as_list("dspark_target_layer_ids", values["target_layer_ids"])
    return DSpark(**values | {"target_layer_ids": tuple(layers)})


def _engram_keys(engram: EngramConfig) -> Keys:
    return {
        **{field.name: getattr(engram, field.name) for field in fields(EngramConfig)},
        "layer_ids": list(engram.layer_ids),
        "num_embeddings": list(engram.num_embeddings),
    }


def _read_engram(source: object) -> EngramConfig | None:
    """The extension that no released V4 has; row totals in it must be what the primes add up to."""
    if source is None:
        return None
    values = as_object("engram", source)
    totals = values.pop("num_embeddings", None)
    known = {field.name: field for field in fields(EngramConfig)}
    needed = {name for name, field in known.items() if field.default is MISSING}
    for name in sorted(values.keys() ^ known.keys()):
        if name not in known:
            raise ConfigError(
                f"engram: the key {shown(name)} is unknown; expected {', '.join(known)} and "
                "num_embeddings."
            )
        if name in needed:
            raise ConfigError(f"engram: {name} is missing; its tables cannot be found without it.")
    layers = tuple(as_list("engram.layer_ids", values["layer_ids"]))
    engram = EngramConfig(**values | {"layer_ids": layers})
    if totals is not None and as_list("engram.num_embeddings", totals) != list(
        engram.num_embeddings
    ):
        raise ConfigError(
            f"engram.num_embeddings is {shown(totals)}, but the primes from {engram.vocab_size} on "
            f"add up to {list(engram.num_embeddings)}; the tables are hashed in another way."
        )
    return engram


def _read_rope_scaling(source: object) -> RopeScaling | None:
    if source is None:
        return None
    values = as_object("rope_scaling", source)
    kind = rope_type(values)
    # transformers writes these two out; only their neutral values are V4.
    for name, neutral in (("attention_factor", 1.0), ("truncate", True)):
        if values.pop(name, neutral) != neutral:
            raise ConfigError(f"rope_scaling.{name} must be {neutral}: V4 keeps cos and sin as is.")
    if kind == "default" and not values:
        return None
    if kind != "yarn":
        raise ConfigError(f"rope_scaling is of type {shown(kind)}; DeepSeek-V4 has 'yarn'.")
    known = {field.name for field in fields(RopeScaling)}
    if set(values) != known:
        wrong = sorted(set(values) ^ known)[0]
        raise ConfigError(
            f"rope_scaling: {shown(wrong)} is {'missing' if wrong in known else 'unknown'}."
        )
    return RopeScaling(**_with_floats(values, RopeScaling))


def _with_floats(values: Keys, kind: type) -> Keys:
    """Whole numbers in real-valued fields become floats; anything else is left to be checked."""
    real = {field.name for field in fields(kind) if field.type is float}
    return {
        name: number
        if name in real and type(value) is int and (number := as_double(value)) is not None
        else value
        for name, value in values.items()
    }
