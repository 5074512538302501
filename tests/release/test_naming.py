"""The name table: every tensor of every release has one place, and nothing else has."""

import re

import pytest

from dsv4_mlx.release.config import FLASH, PRO
from dsv4_mlx.release.naming import Target, repeats_backbone, transformers_name, translate
from dsv4_mlx.release.tensors import checkpoint_tensors
from dsv4_mlx.testing.checkpoints import TINY

# One example of each row of the table.
KNOWN = {
    "embed.weight": "model.embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "norm.weight": "model.norm.weight",
    "hc_head_fn": "model.hc_head.hc_fn",
    "layers.7.attn_norm.weight": "model.layers.7.input_layernorm.weight",
    "layers.7.ffn_norm.weight": "model.layers.7.post_attention_layernorm.weight",
    "layers.7.hc_attn_base": "model.layers.7.attn_hc.base",
    "layers.7.hc_ffn_scale": "model.layers.7.ffn_hc.scale",
    "layers.7.attn.wq_a.scale": "model.layers.7.self_attn.q_a_proj.scales",
    "layers.7.attn.q_norm.weight": "model.layers.7.self_attn.q_a_norm.weight",
    "layers.7.attn.wq_b.weight": "model.layers.7.self_attn.q_b_proj.weight",
    "layers.7.attn.wkv.weight": "model.layers.7.self_attn.kv_proj.weight",
    "layers.7.attn.kv_norm.weight": "model.layers.7.self_attn.kv_norm.weight",
    "layers.7.attn.attn_sink": "model.layers.7.self_attn.sinks",
    "layers.7.attn.wo_a.weight": "model.layers.7.self_attn.o_a_proj.weight",
    "layers.7.attn.wo_b.weight": "model.layers.7.self_attn.o_b_proj.weight",
    "layers.7.attn.compressor.ape": "model.layers.7.self_attn.compressor.position_bias",
    "layers.7.attn.compressor.wgate.weight": "model.layers.7.self_attn.compressor.gate_proj.weight",
    "layers.7.attn.compressor.norm.weight": "model.layers.7.self_attn.compressor.kv_norm.weight",
    "layers.7.attn.indexer.wq_b.weight": (
        "model.layers.7.self_attn.compressor.indexer.q_b_proj.weight"
    ),
    "layers.7.attn.indexer.weights_proj.weight": (
        "model.layers.7.self_attn.compressor.indexer.scorer.weights_proj.weight"
    ),
    "layers.7.attn.indexer.compressor.wkv.weight": (
        "model.layers.7.self_attn.compressor.indexer.kv_proj.weight"
    ),
    "layers.7.ffn.gate.bias": "model.layers.7.mlp.gate.e_score_correction_bias",
    "layers.7.ffn.gate.tid2eid": "model.layers.7.mlp.gate.tid2eid",
    "layers.7.ffn.shared_experts.w1.weight": "model.layers.7.mlp.shared_experts.gate_proj.weight",
    "layers.7.ffn.shared_experts.w2.weight": "model.layers.7.mlp.shared_experts.down_proj.weight",
    "layers.7.ffn.shared_experts.w3.weight": "model.layers.7.mlp.shared_experts.up_proj.weight",
    "mtp.0.e_proj.weight": "mtp.0.e_proj.weight",
    "mtp.0.norm.weight": "mtp.0.norm.weight",
    "mtp.0.hc_head_base": "mtp.0.hc_head.hc_base",
    "mtp.0.attn.wq_a.weight": "mtp.0.self_attn.q_a_proj.weight",
    "mtp.enorm.weight": "mtp.0.enorm.weight",
}


@pytest.mark.parametrize("official", KNOWN)
def test_official_names_become_ours(official):
    assert translate(official).name == KNOWN[official]


def test_gate_and_up_projections_are_the_halves_of_one_matrix():
    stem = "model.layers.3.mlp.experts"
    places = [translate(f"layers.3.ffn.experts.41.{part}.weight") for part in ("w1", "w3", "w2")]
    assert places == [
        Target(f"{stem}.gate_up_proj", "weight", 41, 0),
        Target(f"{stem}.gate_up_proj", "weight", 41, 1),
        Target(f"{stem}.down_proj", "weight", 41, 0),
    ]


@pytest.mark.parametrize(
    "config", [TINY, FLASH, PRO.replace(n_routed_experts=8)], ids=["tiny", "flash", "pro"]
)
def test_every_official_tensor_has_a_place_of_its_own(config):
    names = [spec.name for spec in checkpoint_tensors(config)]
    places = {translate(name) for name in names}
    assert None not in places
    assert len(places) == len(names)


def test_our_names_and_transformers_names_lead_to_the_same_place():
    for spec in checkpoint_tensors(TINY):
        target = translate(spec.name)
        whole = Target(target.module, target.field)
        assert translate(whole.name) == whole
        assert translate(transformers_name(whole)) == whole


def test_transformers_scale_names():
    stem = "model.layers.0"
    assert transformers_name(Target(f"{stem}.self_attn.q_a_proj", "scales")) == (
        f"{stem}.self_attn.q_a_proj.weight_scale_inv"
    )
    assert transformers_name(Target(f"{stem}.mlp.experts.down_proj", "scales")) == (
        f"{stem}.mlp.experts.down_proj_scale_inv"
    )


@pytest.mark.parametrize(
    "name",
    [
        "layers.0.attn.wq_c.weight",
        "layers.0.attn.wq_a",
        "layers.0.attn.wq_a.bias",
        "layers.x.attn.wq_a.weight",
        "layers.0.ffn.gate.bias_vl",
        "layers.0.ffn.experts.0.w4.weight",
        "layers.0.e_proj.weight",
        "model.layers.0.self_attn.q_a_proj.weight.weight",
        "model.layers.0.mlp.experts.gate_up_proj.bias",
        "mtp.0.main_proj.bias",
        "embed.scale_inv",
        "",
    ],
)
def test_other_names_have_no_place(name):
    assert translate(name) is None


def test_copies_of_embedding_and_head_in_draft_blocks_are_recognised():
    assert repeats_backbone("mtp.0.embed.weight")
    assert repeats_backbone("mtp.head.weight")
    assert not repeats_backbone("embed.weight")
    assert not repeats_backbone("mtp.0.e_proj.weight")


def test_official_names_appear_in_the_table_only():
    """Nobody else in the package spells an official attention name; a port's usual mistake."""
    from pathlib import Path

    import dsv4_mlx

    package = Path(dsv4_mlx.__file__).parent
    allowed = {"naming.py", "checkpoint_tensors.py"}
    for path in package.glob("*.py"):
        if path.name not in allowed:
            assert not re.search(r"\bwq_[ab]\b|\bwo_[ab]\b|\bwgate\b", path.read_text()), path.name
