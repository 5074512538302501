"""The arms: what each changes of `base`, and how many parameters that leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from benchmarks.ablations.lab_data import VOCAB
from dsv4_mlx.errors import UsageError
from dsv4_mlx.release.config import FLASH, DeepseekV4Config
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.trainer import uses_muon

LAB = FLASH.replace(
    vocab_size=VOCAB,
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    head_dim=64,
    qk_rope_head_dim=16,
    q_lora_rank=64,
    o_groups=2,
    o_lora_rank=64,
    moe_intermediate_size=64,
    n_routed_experts=8,
    num_experts_per_tok=2,
    num_hash_layers=1,
    sliding_window=32,
    index_n_heads=8,
    index_head_dim=32,
    index_topk=64,  # all entries of 256 tokens: nothing is left out
    compress_ratios=(0, 4, 128, 4, 0),
)
"""V4's kinds of layers in its order and one MTP block; 1 of 1.8 million parameters are active."""

HYPER_CONNECTIONS = (".fn", ".base", ".scale", "hc_fn", "hc_base", "hc_scale")


@dataclass(frozen=True)
class Arm:
    """One change.

    `plain_residuals` holds one stream's mixing at x + f(norm(x)). With `selects`, indexers learn
    from the start and choose the entries that are attended in the second half of the steps.
    """

    name: str
    says: str
    config: DeepseekV4Config
    plain_residuals: bool = False
    only_adamw: bool = False
    selects: bool = False
    peak: float = 1e-2

    def takes_muon(self, name: str, parameter: mx.array) -> bool:
        """Whether Muon moves this parameter; AdamW moves the others."""
        return not self.only_adamw and uses_muon(name, parameter)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("base", "mHC with 4 streams, Muon, all entries, no Engram", LAB),
        Arm(
            "plain-residuals",
            "one residual stream x + f(norm(x)), one more expert for the parameters of mHC",
            LAB.replace(hc_mult=1, n_routed_experts=9),
            plain_residuals=True,
        ),
        Arm(
            "engram",
            "Engram at layer 1, two experts fewer for its parameters",
            LAB.replace(
                n_routed_experts=6,
                engram=EngramConfig(
                    layer_ids=(1,),
                    compressed_vocab_size=VOCAB,
                    vocab_size=1270,
                    max_ngram_size=3,
                    n_heads=2,
                    head_dim=32,
                ),
            ),
        ),
        Arm("adamw", "AdamW for every parameter at Muon's peak rate", LAB, only_adamw=True),
        Arm(
            "selected",
            "16 of 64 entries selected in the second half of the steps, the indexer trained",
            LAB.replace(index_topk=16),
            selects=True,
        ),
        Arm(
            "adamw-low",
            "AdamW for every parameter at a quarter of that rate",
            LAB,
            only_adamw=True,
            peak=2.5e-3,
        ),
    )
}
"""By name, in the order in which `--all` runs them."""


def arm(name: str) -> Arm:
    """The arm of this name; UsageError for another one."""
    if name not in ARMS:
        raise UsageError(f"expected one of the arms {', '.join(ARMS)} but found {name!r}.")
    return ARMS[name]


def plain(parameters: Parameters) -> Parameters:
    """The mixing weights of one stream that make x + f(norm(x)) of mHC: all zeros.

    Without weights, before = sigmoid(0), which the norm after it removes, after = 2 sigmoid(0) = 1,
    and one stream mixed with itself is itself (paper §2.2, with N = 1).
    """
    return {
        name: mx.zeros_like(value)
        for name, value in parameters.items()
        if name.endswith(HYPER_CONNECTIONS)
    }


def counted(config: DeepseekV4Config, parameters: Mapping[str, mx.array]) -> tuple[int, int]:
    """All parameters, and those of one token: its experts, and the rows that it looks up."""
    total = active = 0
    for name, value in parameters.items():
        size = math.prod(value.shape)
        total += size
        if ".experts." in name:
            size = size * config.num_experts_per_tok // config.n_routed_experts
        elif name.endswith("embed_tokens.weight"):
            size = value.shape[-1]
        elif name.endswith("engram.table.weight"):
            assert config.engram is not None
            size = config.engram.width
        active += size
    return total, active
