"""Every spelling of a DeepSeek-V4 config.json is read; everything else is refused by name."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.errors import ConfigError
from dsv4_mlx.release.config import FLASH, PRO, DeepseekV4Config
from dsv4_mlx.release.spellings import config_of, keys_of

# config.json of V4-Flash as released; `expert_dtype` is absent there.
FLASH_JSON: dict[str, Any] = json.loads("""{
  "architectures": ["DeepseekV4ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "bos_token_id": 0, "compress_rope_theta": 160000, "eos_token_id": 1, "hc_eps": 1e-06,
  "hc_mult": 4, "hc_sinkhorn_iters": 20, "head_dim": 512, "hidden_act": "silu",
  "hidden_size": 4096, "index_head_dim": 128, "index_n_heads": 64, "index_topk": 512,
  "initializer_range": 0.02, "max_position_embeddings": 1048576, "model_type": "deepseek_v4",
  "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
  "norm_topk_prob": true, "num_attention_heads": 64, "num_experts_per_tok": 6,
  "num_hash_layers": 3, "num_hidden_layers": 43, "num_key_value_heads": 1,
  "num_nextn_predict_layers": 1, "o_groups": 8, "o_lora_rank": 1024, "q_lora_rank": 1024,
  "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000,
  "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
                   "beta_fast": 32, "beta_slow": 1},
  "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                          "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
  "routed_scaling_factor": 1.5, "scoring_func": "sqrtsoftplus", "sliding_window": 128,
  "swiglu_limit": 10.0, "tie_word_embeddings": false, "topk_method": "noaux_tc",
  "torch_dtype": "bfloat16", "transformers_version": "4.57.1", "use_cache": true,
  "vocab_size": 129280
}""")
FLASH_JSON["compress_ratios"] = [0, 0] + [4, 128] * 20 + [4, 0]

INFERENCE_JSON: dict[str, Any] = {
    "vocab_size": 129280,
    "dim": 7168,
    "moe_inter_dim": 3072,
    "n_layers": 61,
    "n_hash_layers": 3,
    "n_heads": 128,
    "n_routed_experts": 384,
    "n_shared_experts": 1,
    "n_activated_experts": 6,
    "score_func": "sqrtsoftplus",
    "route_scale": 2.5,
    "swiglu_limit": 10.0,
    "q_lora_rank": 1536,
    "head_dim": 512,
    "rope_head_dim": 64,
    "o_groups": 16,
    "o_lora_rank": 1024,
    "window_size": 128,
    "original_seq_len": 65536,
    "rope_theta": 10000,
    "compress_rope_theta": 160000,
    "rope_factor": 16,
    "beta_fast": 32,
    "beta_slow": 1,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 1024,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "dtype": "fp8",
    "scale_fmt": "ue8m0",
    "expert_dtype": "fp4",
    "compress_ratios": list(PRO.compress_ratios),
}

DSPARK_KEYS = {
    "dspark_block_size": 5,
    "dspark_noise_token_id": 128799,
    "dspark_target_layer_ids": [40, 41, 42],
    "dspark_markov_rank": 256,
}


def flash(**changes: Any) -> dict[str, Any]:
    """The released file with some keys changed; a value of ... removes the key."""
    merged = FLASH_JSON | changes
    return {key: value for key, value in merged.items() if value is not ...}


def transformers_spelling() -> dict[str, Any]:
    """What transformers 5.23 writes back for V4-Flash (its generic keys left out)."""
    keys = flash(compress_ratios=..., num_hash_layers=..., rope_scaling=..., torch_dtype=...)
    kinds = {0: "sliding", 4: "compressed_sparse", 128: "heavily_compressed"}
    ratios = FLASH_JSON["compress_ratios"][:43]
    return keys | {
        "dtype": "bfloat16",
        "layer_types": [f"{kinds[ratio]}_attention" for ratio in ratios],
        "mlp_layer_types": ["hash_moe"] * 3 + ["moe"] * 40,
        "mlp_bias": False,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128},
        "partial_rotary_factor": 0.125,
        "pad_token_id": None,
        "router_aux_loss_coef": 0.001,
        "expert_dtype": "fp4",
        "quantization_config": FLASH_JSON["quantization_config"] | {"expert_dtype": "fp4"},
        "rope_parameters": {
            "main": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.125},
            "compress": {
                "type": "yarn",
                "rope_type": "yarn",
                "factor": 16.0,
                "original_max_position_embeddings": 65536,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "rope_theta": 160000.0,
                "partial_rotary_factor": 0.125,
                "attention_factor": 1.0,
            },
        },
    }


def test_the_released_file_is_the_preset() -> None:
    assert config_of(FLASH_JSON) == FLASH


@pytest.mark.parametrize("config", [FLASH, PRO], ids=["flash", "pro"])
def test_the_official_keys_are_read_back(config: DeepseekV4Config) -> None:
    assert config_of(json.loads(json.dumps(keys_of(config)))) == config


def test_numbers_become_floats_where_the_field_is_one() -> None:
    config = config_of(FLASH_JSON)
    assert type(config.rope_theta) is float
    assert type(config.rope_scaling.factor) is float


def test_transformers_spelling() -> None:
    assert config_of(transformers_spelling()) == FLASH


@pytest.mark.parity
def test_transformers_writes_what_we_read() -> None:
    theirs = pytest.importorskip("transformers").DeepseekV4Config
    written = theirs(**json.loads(json.dumps(FLASH_JSON))).to_dict()
    assert config_of(written) == FLASH
    default = config_of(theirs().to_dict())
    assert default.backbone_ratios == (128, 128, *(128, 4) * 20, 128)
    assert default.rope_scaling is None


def test_inference_code_spelling() -> None:
    assert config_of(INFERENCE_JSON) == PRO
    assert config_of(INFERENCE_JSON | {"n_mtp_layers": 0}).draft_kind is None


def test_schedule() -> None:
    assert [FLASH.backbone_ratios.count(ratio) for ratio in (0, 4, 128)] == [2, 21, 20]
    assert [PRO.backbone_ratios.count(ratio) for ratio in (0, 4, 128)] == [0, 30, 31]
    assert [FLASH.is_hash_layer(layer) for layer in (0, 2, 3)] == [True, True, False]


def test_our_converted_folder_is_read() -> None:
    quantization = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    assert config_of(flash(quantization=quantization)) == FLASH


def test_base_checkpoints_say_fp8_experts() -> None:
    config = config_of(flash(expert_dtype="fp8"))
    assert config.expert_dtype == "fp8"
    moved = flash(quantization_config=FLASH_JSON["quantization_config"] | {"expert_dtype": "fp8"})
    assert config_of(moved) == config


def test_dspark_keeps_the_backbone_and_names_its_drafts() -> None:
    ratios = [*FLASH_JSON["compress_ratios"], 0, 0]
    config = config_of(flash(compress_ratios=ratios, **DSPARK_KEYS))
    assert config.backbone_ratios == FLASH.backbone_ratios
    assert (config.draft_kind, config.draft_ratios, config.num_mtp_layers) == (
        "dspark",
        (0, 0, 0),
        0,
    )
    assert config_of(keys_of(config)) == config


def test_draft_kinds() -> None:
    assert FLASH.draft_kind == "mtp"
    assert FLASH.replace(num_nextn_predict_layers=0).draft_kind is None


def test_a_model_without_files_needs_no_quantization() -> None:
    assert config_of(flash(quantization_config=...)) == FLASH


@pytest.mark.parametrize("head_dim", [64, 96, 512])
@pytest.mark.parametrize("window", [5, 128])
def test_no_dimension_is_a_constant(head_dim: int, window: int) -> None:
    small = flash(
        head_dim=head_dim,
        sliding_window=window,
        qk_rope_head_dim=32,
        vocab_size=300,
        num_attention_heads=6,
        o_groups=3,
        n_routed_experts=7,
        num_experts_per_tok=3,
        index_head_dim=32,
        index_topk=9,
        num_hidden_layers=2,
        num_hash_layers=0,
        compress_ratios=[128, 4, 0],
    )
    config = config_of(small)
    assert (config.head_dim, config.sliding_window) == (head_dim, window)


FP8 = FLASH_JSON["quantization_config"]
YARN = FLASH_JSON["rope_scaling"]
SLIDING = ["sliding_attention"] * 43

REFUSED = {
    "V4.1": (flash(model_type="deepseek_v41", text_config={}), "DeepSeek-V4.1"),
    "another model": (flash(model_type="llama"), "model_type is 'llama'"),
    "another class": (flash(architectures=["DeepseekV3ForCausalLM"]), "DeepseekV3ForCausalLM"),
    "vision": (flash(vision_n_layers=24), "vision_n_layers"),
    "vision object": (flash(vision_config={}), "vision_config"),
    "NVFP4": (flash(quantization_config=FP8 | {"quant_method": "modelopt"}), "'modelopt'"),
    "Quark": (flash(quantization_config={"quant_method": "quark"}), "'quark'"),
    "MoE algo": (flash(quantization_config=FP8 | {"moe_quant_algo": "NVFP4"}), "'NVFP4'"),
    "block size": (flash(quantization_config=FP8 | {"weight_block_size": [32, 32]}), "[32, 32]"),
    "no block size": (flash(quantization_config={"quant_method": "fp8"}), "weight_block_size"),
    "fp8 format": (flash(quantization_config=FP8 | {"fmt": "e5m2"}), "'e5m2'"),
    "scale format": (flash(quantization_config=FP8 | {"scale_fmt": "e4m3"}), "scale_fmt"),
    "quantization key": (flash(quantization_config=FP8 | {"hqq": 1}), "'hqq'"),
    "quantization type": (flash(quantization_config="fp8"), "quantization_config"),
    "unknown key": (flash(engram_layer_ids=[1, 14]), "'engram_layer_ids'"),
    "missing key": (flash(hidden_size=...), "hidden_size"),
    "no ratios": (flash(compress_ratios=...), "compress_ratios"),
    "few ratios": (flash(compress_ratios=[0, 4]), "2 entries for 43 layers"),
    "ratio 2": (flash(compress_ratios=[2] * 44), "compress_ratios[0] is 2"),
    "ratio text": (flash(compress_ratios="4" * 44), "compress_ratios"),
    "ratio bool": (flash(compress_ratios=[False] * 44), "compress_ratios[0] is False"),
    "draft ratio": (flash(compress_ratios=[4] * 44), "prediction block"),
    "scoring": (flash(scoring_func="sigmoid"), "scoring_func is 'sigmoid'"),
    "top-k method": (flash(topk_method="greedy"), "topk_method"),
    "unnormalised": (flash(norm_topk_prob=False), "norm_topk_prob"),
    "activation": (flash(hidden_act="gelu"), "hidden_act"),
    "bias": (flash(attention_bias=True), "attention_bias"),
    "tied": (flash(tie_word_embeddings=True), "tie_word_embeddings"),
    "kv heads": (flash(num_key_value_heads=8), "num_key_value_heads"),
    "kv heads bool": (flash(num_key_value_heads=True), "num_key_value_heads"),
    "shared experts": (flash(n_shared_experts=2), "n_shared_experts"),
    "groups": (flash(o_groups=7), "o_groups"),
    "zero groups": (flash(o_groups=0), "o_groups"),
    "rope over head": (flash(qk_rope_head_dim=514), "qk_rope_head_dim"),
    "rope over index head": (flash(index_head_dim=32), "index_head_dim"),
    "odd rope": (flash(qk_rope_head_dim=63), "even"),
    "negative": (flash(hidden_size=-1), "hidden_size is -1"),
    "zero": (flash(num_hidden_layers=0), "num_hidden_layers is 0"),
    "text": (flash(hidden_size="4096"), "hidden_size is '4096'"),
    "float": (flash(hidden_size=4096.0), "hidden_size is 4096.0"),
    "bool": (flash(hc_mult=True), "hc_mult is True"),
    "float bool": (flash(swiglu_limit=True), "swiglu_limit is True"),
    "NaN": (flash(rms_norm_eps=math.nan), "rms_norm_eps"),
    "infinite": (flash(rope_theta=math.inf), "rope_theta"),
    "no clamp": (flash(swiglu_limit=0.0), "swiglu_limit"),
    "top-k over experts": (flash(num_experts_per_tok=257), "num_experts_per_tok"),
    "hash layers": (flash(num_hash_layers=44), "num_hash_layers"),
    "eos": (flash(eos_token_id=129280), "eos_token_id"),
    "eos in a text": (flash(eos_token_id="1"), "eos_token_id"),
    "one eos outside": (flash(eos_token_id=[1, 129280]), "eos_token_id"),
    "a negative eos": (flash(eos_token_id=[1, -1]), "eos_token_id"),
    "more experts than memory": (flash(n_routed_experts=10**9), "n_routed_experts"),
    "more blocks than memory": (flash(num_nextn_predict_layers=10**12), "num_nextn_predict_layers"),
    "a window beyond memory": (flash(sliding_window=1 << 24), "sliding_window"),
    "rounds without end": (flash(hc_sinkhorn_iters=10**9), "hc_sinkhorn_iters"),
    "a number beyond every double": (flash(rope_theta=10**400), "rope_theta"),
    "another program's packing": (
        flash(quantization_config={"group_size": 64, "bits": 4}),
        "quantization_config says",
    ),
    "expert dtype": (flash(expert_dtype="int4"), "expert_dtype"),
    "rope type": (flash(rope_scaling=YARN | {"type": "linear"}), "'linear'"),
    "two rope types": (flash(rope_scaling=YARN | {"rope_type": "llama3"}), "two types"),
    "mscale": (flash(rope_scaling=YARN | {"mscale": 1.0}), "'mscale'"),
    "attention factor": (flash(rope_scaling=YARN | {"attention_factor": 1.28}), "attention_factor"),
    "yarn part": (flash(rope_scaling={"type": "yarn", "factor": 16}), "'beta_fast'"),
    "yarn factor": (flash(rope_scaling=YARN | {"factor": 0.5}), "factor"),
    "yarn betas": (flash(rope_scaling=YARN | {"beta_slow": 32}), "beta_fast"),
    "half DSpark": (flash(dspark_block_size=5), "dspark_noise_token_id"),
    "rates": (flash(compress_rates={"compressed_sparse_attention": 8}), "compress_rates"),
    "layer type": (flash(layer_types=["full_attention"] * 43), "'full_attention'"),
    "two schedules": (flash(layer_types=SLIDING), "disagree"),
    "two hash counts": (flash(mlp_layer_types=["moe"] * 43), "num_hash_layers is given twice"),
    "hash layers late": (flash(mlp_layer_types=["moe", "hash_moe"]), "mlp_layer_types"),
    "two thetas": (
        transformers_spelling() | {"compress_rope_theta": 40000},
        "compress_rope_theta is given twice",
    ),
    "two rotary sizes": (flash(partial_rotary_factor=0.5), "partial_rotary_factor"),
    "flat rope": (flash(rope_parameters={"rope_type": "yarn"}), "rope_parameters"),
}


@pytest.mark.parametrize(("source", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_with_a_sentence_that_names_it(source: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_of(source)
    assert words in str(error.value)
    assert str(error.value).endswith(".")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["yarn", "moe", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["main", "compress", "type", "factor"]), inner)
    ),
    max_leaves=6,
)
SPELLINGS = {"official": flash(**DSPARK_KEYS), "transformers": transformers_spelling()}
SPELLINGS["inference"] = INFERENCE_JSON


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SPELLINGS)), st.data())
def test_no_value_of_any_key_is_a_traceback(spelling: str, data: st.DataObject) -> None:
    source = dict(SPELLINGS[spelling])
    for key in data.draw(st.lists(st.sampled_from(sorted(source)), min_size=1, max_size=2)):
        source[key] = data.draw(ANY_JSON, label=key)
    try:
        config = config_of(source)
    except ConfigError as error:
        assert str(error).endswith(".")
    else:
        assert config_of(keys_of(config)) == config


@pytest.mark.parametrize("source", [None, [], "deepseek_v4", 7])
def test_a_config_must_be_an_object(source: Any) -> None:
    with pytest.raises(ConfigError, match="expected an object"):
        config_of(source)


def test_fields_are_checked_however_a_config_is_made() -> None:
    with pytest.raises(ConfigError, match="o_groups"):
        FLASH.replace(num_attention_heads=63)


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = """if True:
        import sys
        import dsv4_mlx
        dsv4_mlx.DeepseekV4Config, dsv4_mlx.Numerics, dsv4_mlx.__version__
        loaded = {name.partition(".")[0] for name in sys.modules}
        heavy = {"mlx", "numpy", "mlx_lm", "transformers", "torch", "tokenizers", "rich"} & loaded
        sys.exit(", ".join(sorted(heavy)) or None)
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_name_that_the_package_does_not_have() -> None:
    import dsv4_mlx

    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = dsv4_mlx.lod
