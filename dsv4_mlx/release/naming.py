"""Tensor names: the release's, transformers' and ours, in one table.

Ours are transformers' names; a packed matrix `X` is stored as `X.weight` and `X.scales`. Official
names (`wq_a`, `ape`, `attn_sink`) appear in this table and in `checkpoint_tensors` alone.
"""

import re
from typing import NamedTuple

# Matrices, named without their last part: official -> ours.
_ATTENTION = {
    "attn.wq_a": "self_attn.q_a_proj",
    "attn.wq_b": "self_attn.q_b_proj",
    "attn.wkv": "self_attn.kv_proj",
    "attn.wo_a": "self_attn.o_a_proj",
    "attn.wo_b": "self_attn.o_b_proj",
    "attn.indexer.wq_b": "self_attn.compressor.indexer.q_b_proj",
    "attn.indexer.weights_proj": "self_attn.compressor.indexer.scorer.weights_proj",
}
_COMPRESSORS = {
    f"{official}.{theirs}": f"{ours}.{name}"
    for official, ours in (
        ("attn.compressor", "self_attn.compressor"),
        ("attn.indexer.compressor", "self_attn.compressor.indexer"),
    )
    for theirs, name in (("wkv", "kv_proj"), ("wgate", "gate_proj"), ("norm", "kv_norm"))
}
_MIXTURE = {
    "ffn.gate": "mlp.gate",
    "ffn.shared_experts.w1": "mlp.shared_experts.gate_proj",
    "ffn.shared_experts.w3": "mlp.shared_experts.up_proj",
    "ffn.shared_experts.w2": "mlp.shared_experts.down_proj",
}
_NORMS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn.q_norm": "self_attn.q_a_norm",
    "attn.kv_norm": "self_attn.kv_norm",
}
ENGRAM_TABLE = "engram.table"
"""Our name of the table of a layer, whose rows have scales of their own in files."""
_ENGRAM = {"engram.embed": ENGRAM_TABLE, "engram.wkv": "engram.kv_proj"}
_BLOCK_WEIGHTS = _ENGRAM | _NORMS | _ATTENTION | _COMPRESSORS | _MIXTURE

# Parameters with a whole name of their own.
_BLOCK_PARAMETERS = {
    **{f"hc_{part}_{leaf}": f"{part}_hc.{leaf}"
       for part in ("attn", "ffn") for leaf in ("fn", "base", "scale")},
    "attn.attn_sink": "self_attn.sinks",
    "attn.compressor.ape": "self_attn.compressor.position_bias",
    "attn.indexer.compressor.ape": "self_attn.compressor.indexer.position_bias",
    "engram.q_weight": "engram.q_weight",
    "engram.k_weight": "engram.k_weight",
    "ffn.gate.bias": "mlp.gate.e_score_correction_bias",
    "ffn.gate.tid2eid": "mlp.gate.tid2eid",
}  # fmt: skip
_HYPER_HEAD = {f"hc_head_{leaf}": f"hc_head.hc_{leaf}" for leaf in ("fn", "base", "scale")}
_TOP_WEIGHTS = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_TOP_PARAMETERS = {name: f"model.{ours}" for name, ours in _HYPER_HEAD.items()}
_DRAFT_WEIGHTS = {
    name: name
    for name in (
        *("e_proj", "h_proj", "enorm", "hnorm", "norm"),
        *("main_proj", "main_norm"),  # DSpark's
        *("markov_head.markov_w1", "markov_head.markov_w2", "confidence_head.proj"),
    )
}

# Official part of a routed expert -> our stacked matrix, and which half of its rows.
_EXPERT_PARTS = {"w1": ("gate_up_proj", 0), "w3": ("gate_up_proj", 1), "w2": ("down_proj", 0)}

# How a name may end: the part after the matrix -> our field.
_FIELDS = {
    ".weight": "weight",
    ".scale": "scales",  # official
    ".scales": "scales",  # ours
    ".biases": "biases",  # ours, for affine groups
    ".block_scales": "block_scales",  # ours, for FP8 whose scales are no powers of two
    ".weight_scale_inv": "scales",  # transformers
}
_STACKED_FIELDS = _FIELDS | {"": "weight", "_scale_inv": "scales"}  # transformers' experts

_EXPERT = re.compile(
    r"(?:layers\.(\d+)|mtp(?:\.(\d+))?)\.ffn\.experts\.(\d+)\.(w[123])(\.weight|\.scale)"
)
_STACKED = re.compile(r"(mlp\.experts\.(?:gate_up_proj|down_proj))(.*)")
_OFFICIAL_BLOCK = re.compile(r"(?:layers\.(\d+)|mtp(?:\.(\d+))?)\.(?=\D)(.*)")
_OUR_BLOCK = re.compile(r"(model\.layers\.\d+|mtp\.\d+)\.(.*)")


class Target(NamedTuple):
    """The place of one stored tensor among our parameters.

    `module` and `field` make the parameter's name. A tensor of a single expert says which one, and
    for gate_up_proj which half of the rows (0 gate, 1 up) it fills.
    """

    module: str
    field: str
    expert: int | None = None
    half: int = 0

    @property
    def name(self) -> str:
        return f"{self.module}.{self.field}"


def translate(name: str) -> Target | None:
    """Where a tensor of any known spelling belongs; None for a name that no V4 has."""
    return _translate_official(name) or _translate_ours(name)


def is_draft(name: str) -> bool:
    """Whether the tensor belongs to draft blocks, MTP or DSpark, under any spelling."""
    return name.startswith("mtp.")


def is_table(name: str) -> bool:
    """Whether the tensor is part of one of Engram's tables, under any spelling."""
    return ".engram.embed." in name or f".{ENGRAM_TABLE}." in name


def repeats_backbone(name: str) -> bool:
    """Whether the tensor is a draft block's copy of the embedding or head, as some files have."""
    return is_draft(name) and bool(re.fullmatch(r"mtp\.(?:\d+\.)?(?:embed|head)\.weight", name))


def transformers_name(target: Target) -> str:
    """The name transformers gives a whole parameter in a checkpoint that keeps FP8 and FP4."""
    if ".mlp.experts." in target.module:
        return target.module + {"weight": "", "scales": "_scale_inv"}[target.field]
    return target.name.removesuffix(".scales") + (
        ".weight_scale_inv" if target.field == "scales" else ""
    )


def _translate_official(name: str) -> Target | None:
    if expert := _EXPERT.fullmatch(name):  # 66,000 of the 69,000 names of Flash
        layer, draft, number, matrix, ending = expert.groups()
        module, half = _EXPERT_PARTS[matrix]
        return Target(
            f"{_prefix(layer, draft)}mlp.experts.{module}", _FIELDS[ending], int(number), half
        )
    block = _OFFICIAL_BLOCK.fullmatch(name)
    if block is None:
        return _lookup(name, "", _TOP_WEIGHTS, _TOP_PARAMETERS)
    layer, draft, rest = block.groups()
    prefix = _prefix(layer, draft)
    target = _lookup(rest, prefix, _BLOCK_WEIGHTS, _BLOCK_PARAMETERS)
    if target is None and layer is None:
        target = _lookup(rest, prefix, _DRAFT_WEIGHTS, _HYPER_HEAD)
    return target


def _prefix(layer: str | None, draft: str | None) -> str:
    return f"model.layers.{layer}." if layer else f"mtp.{draft or 0}."


def _translate_ours(name: str) -> Target | None:
    block = _OUR_BLOCK.fullmatch(name)
    if block is None:
        return _lookup(name, "", _itself(_TOP_WEIGHTS), _itself(_TOP_PARAMETERS))
    prefix, rest = f"{block[1]}.", block[2]
    stacked = _STACKED.fullmatch(rest)
    if stacked:
        field = _STACKED_FIELDS.get(stacked[2])
        return Target(prefix + stacked[1], field) if field else None
    target = _lookup(rest, prefix, _itself(_BLOCK_WEIGHTS), _itself(_BLOCK_PARAMETERS))
    if target is None and prefix.startswith("mtp."):
        target = _lookup(rest, prefix, _DRAFT_WEIGHTS, _itself(_HYPER_HEAD))
    return target


def _lookup(
    name: str, prefix: str, weights: dict[str, str], parameters: dict[str, str]
) -> Target | None:
    if name in parameters:
        module, _, field = (prefix + parameters[name]).rpartition(".")
        return Target(module, field)
    stem, dot, ending = name.rpartition(".")
    if stem in weights and dot + ending in _FIELDS:
        return Target(prefix + weights[stem], _FIELDS[dot + ending])
    return None


def _itself(table: dict[str, str]) -> dict[str, str]:
    return {ours: ours for ours in table.values()}
