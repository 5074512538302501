"""Without roundings the oracle is transformers' DeepseekV4ForCausalLM, up to its float32 noise."""

from pathlib import Path

import numpy as np
import pytest

from tests.oracle import v4_numpy
from tests.oracle.tiny import NARROW, TINY, random_weights

# Rows of transformers' logits, so that the comparison also runs where torch is not installed.
# Written by `python -m tests.oracle.test_transformers_parity`.
RECORDED = Path(__file__).with_name("transformers_logits.npz")
CONFIGS = {"tiny": TINY, "narrow": NARROW}
TOKENS = np.random.default_rng(1).integers(0, 96, 300)
RECORDED_ROWS = [0, 3, 4, 7, 30, 127, 128, 129, 200, 255, 256, 299]

# Official name -> transformers' name, replaced in this order.
RENAMES = [
    ("layers.", "model.layers."),
    ("indexer.compressor.", "compressor.indexer."),
    ("attn.indexer.", "attn.compressor.indexer."),
    (".indexer.wq_b.", ".indexer.q_b_proj."),
    ("weights_proj", "scorer.weights_proj"),
    ("compressor.norm.", "compressor.kv_norm."),
    ("indexer.norm.", "indexer.kv_norm."),
    ("wgate", "gate_proj"),
    (".ape", ".position_bias"),
    ("attn.attn_sink", "attn.sinks"),
    ("wq_a", "q_a_proj"),
    ("wq_b", "q_b_proj"),
    ("q_norm", "q_a_norm"),
    ("wkv", "kv_proj"),
    ("wo_a", "o_a_proj"),
    ("wo_b", "o_b_proj"),
    (".attn.", ".self_attn."),
    ("hc_attn_", "attn_hc."),
    ("hc_ffn_", "ffn_hc."),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    (".ffn.", ".mlp."),
    ("gate.bias", "gate.e_score_correction_bias"),
    ("shared_experts.w1", "shared_experts.gate_proj"),
    ("shared_experts.w2", "shared_experts.down_proj"),
    ("shared_experts.w3", "shared_experts.up_proj"),
]
TOP = {
    "embed.weight": "model.embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "norm.weight": "model.norm.weight",
    "hc_head_fn": "model.hc_head.hc_fn",
    "hc_head_base": "model.hc_head.hc_base",
    "hc_head_scale": "model.hc_head.hc_scale",
}


def transformers_name(name: str) -> str:
    if name in TOP:
        return TOP[name]
    for official, theirs in RENAMES:
        name = name.replace(official, theirs)
    return name


def transformers_weights(weights: dict[str, np.ndarray], config: dict) -> dict[str, np.ndarray]:
    """Official names -> transformers' names, experts stacked, the draft block left out."""
    backbone = {name: w for name, w in weights.items() if not name.startswith("mtp.")}
    renamed = {transformers_name(n): w for n, w in backbone.items() if ".ffn.experts." not in n}
    for number in range(config["num_hidden_layers"]):
        experts = [f"layers.{number}.ffn.experts.{e}." for e in range(config["n_routed_experts"])]
        gate_up = [
            np.concatenate([weights[e + "w1.weight"], weights[e + "w3.weight"]]) for e in experts
        ]
        prefix = f"model.layers.{number}.mlp.experts."
        renamed[prefix + "gate_up_proj"] = np.stack(gate_up)
        renamed[prefix + "down_proj"] = np.stack([weights[e + "w2.weight"] for e in experts])
    return renamed


def transformers_model(config: dict, weights: dict[str, np.ndarray]):
    import torch
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

    torch.set_num_threads(1)  # products are tiny, and every process of a run would start its own
    ratios = config["compress_ratios"][: config["num_hidden_layers"]]
    settings = DeepseekV4Config(**{**config, "compress_ratios": ratios})
    settings._attn_implementation = "eager"
    model = DeepseekV4ForCausalLM(settings).float().eval()
    state = {n: torch.tensor(w) for n, w in transformers_weights(weights, config).items()}
    model.load_state_dict({n: w.float() if w.is_floating_point() else w for n, w in state.items()})
    return model


def transformers_logits(model, tokens: np.ndarray) -> np.ndarray:
    """[S] -> [S, V] float32 from one call without a cache."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens[None]), use_cache=False).logits[0].numpy()


@pytest.mark.parity
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_equal_transformers_in_float32(config):
    weights = random_weights(config)
    model = transformers_model(config, weights)
    ours = v4_numpy.forward(config, weights, TOKENS, official=False)
    # A near-tie in a choice would make the comparison meaningless, so the seed must avoid one.
    assert min(layer.expert_margins.min() for layer in ours.layers) > 2e-6
    for length in (1, 7, 130, 300):
        expected = v4_numpy.forward(config, weights, TOKENS[:length], official=False).logits
        theirs = transformers_logits(model, TOKENS[:length])
        np.testing.assert_allclose(theirs, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_the_recorded_ones_of_transformers(name):
    weights = random_weights(CONFIGS[name])
    logits = v4_numpy.forward(CONFIGS[name], weights, TOKENS, official=False).logits
    with np.load(RECORDED) as recorded:
        np.testing.assert_allclose(recorded[name], logits[RECORDED_ROWS], rtol=0, atol=2e-5)


def record() -> None:
    """Write transformers' logits of every configuration and the versions that made them."""
    import torch
    import transformers

    rows = {
        name: transformers_logits(transformers_model(config, random_weights(config)), TOKENS)
        for name, config in CONFIGS.items()
    }
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    kept = {name: logits[RECORDED_ROWS] for name, logits in rows.items()}
    np.savez_compressed(RECORDED, made_with=np.array(versions), **kept)


if __name__ == "__main__":
    record()
