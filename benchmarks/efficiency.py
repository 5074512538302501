"""The paper's claims about cost, counted from configs: operations of a token, bytes of the cache.

    python -m benchmarks.efficiency

Nothing is run. A multiplication with its addition is two operations, as in every count of this
kind; softmax, norms, routing and the mixing of streams are left out, below one in a hundred.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

from benchmarks.record import record
from dsv4_mlx.release.config import FLASH, PRO, DeepseekV4Config
from dsv4_mlx.release.tensors import backbone_tensors
from dsv4_mlx.sizing.costs import Costs

MILLION = 1 << 20
CONTEXTS = (4096, 32768, 131072, MILLION)
CLAIMED = {
    "V4-Pro": {"operations": 0.27, "cache": 0.10, "cache beside GQA": 0.02},
    "V4-Flash": {"operations": 0.10, "cache": 0.07, "cache beside GQA": 0.02},
}
"""What the paper says at a million tokens: shares of V3.2, and of grouped-query attention."""

FIELDS = (
    "model", "context", "gflop", "weights_gflop", "index_gflop", "attention_gflop",
    "share_of_v32", "gflop_fp8", "share_of_v32_fp8", "cache_bytes", "cache_share_of_v32",
    "cache_share_of_gqa",
)  # fmt: skip


@dataclass(frozen=True)
class Operations:
    """Of one decoded token: in matrices of weights, in the indexers' scores, in attention."""

    weights: int
    index: int
    attention: int

    @property
    def plain(self) -> int:
        """All of them, each as one."""
        return self.weights + self.index + self.attention

    def fp8_equivalent(self, index: Fraction) -> Fraction:
        """All in units of an FP8 operation: bfloat16 attention is 2, an index score `index`."""
        return self.weights + index * self.index + 2 * self.attention


@dataclass(frozen=True)
class SparseMla:
    """DeepSeek-V3.2: sizes of its config.json, multi-head latent attention with an indexer."""

    vocab_size: int = 129280
    hidden_size: int = 7168
    num_hidden_layers: int = 61
    first_k_dense_replace: int = 3
    intermediate_size: int = 18432
    moe_intermediate_size: int = 2048
    num_experts_per_tok: int = 8
    n_shared_experts: int = 1
    n_routed_experts: int = 256
    num_attention_heads: int = 128
    q_lora_rank: int = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    index_n_heads: int = 64
    index_head_dim: int = 128
    index_topk: int = 2048

    def active_parameters(self) -> int:
        """Weights that one token is multiplied with, the head's among them."""
        hidden, heads, index = self.hidden_size, self.num_attention_heads, self.index_head_dim
        attention = (
            hidden * (self.q_lora_rank + self.kv_lora_rank + self.qk_rope_head_dim)
            + self.q_lora_rank * heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
            + self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
            + heads * self.v_head_dim * hidden
            + self.q_lora_rank * self.index_n_heads * index
            + hidden * (index + self.index_n_heads)
        )
        experts = (
            3 * self.moe_intermediate_size * (self.num_experts_per_tok + self.n_shared_experts)
        )
        dense = self.first_k_dense_replace
        return (
            self.num_hidden_layers * attention
            + dense * 3 * hidden * self.intermediate_size
            + (self.num_hidden_layers - dense) * hidden * (experts + self.n_routed_experts)
            + self.vocab_size * hidden
        )

    def operations(self, context: int) -> Operations:
        """Of the token after `context` tokens, keys and values read in their latent form."""
        seen = min(self.index_topk, context)
        width = 2 * self.kv_lora_rank + self.qk_rope_head_dim  # scores, then the weighted sum
        return Operations(
            weights=2 * self.active_parameters(),
            index=self.num_hidden_layers * 2 * self.index_n_heads * self.index_head_dim * context,
            attention=self.num_hidden_layers * 2 * self.num_attention_heads * width * seen,
        )

    def cache_bytes(self, context: int) -> int:
        """FP8 latents with four float32 scales, a bfloat16 rotary part, FP8 keys with a scale."""
        latent = self.kv_lora_rank + 4 * 4 + 2 * self.qk_rope_head_dim
        return self.num_hidden_layers * (latent + self.index_head_dim + 4) * context


V32 = SparseMla()
MODELS = {"V4-Flash": FLASH, "V4-Pro": PRO}


@cache
def active_parameters(config: DeepseekV4Config) -> int:
    """Weights that one token is multiplied with, the head's among them, its embedding's not."""
    experts = others = 0
    for tensor in backbone_tensors(config):
        if tensor.name == "embed.weight" or tensor.name.endswith(("tid2eid", ".scale")):
            continue
        size = math.prod(tensor.shape) * (2 if tensor.dtype == "I8" else 1)  # two FP4 in a byte
        if ".experts." in tensor.name:
            experts += size
        else:
            others += size
    return others + experts * config.num_experts_per_tok // config.n_routed_experts


def operations(config: DeepseekV4Config, context: int) -> Operations:
    """Of the token after `context` tokens: every key takes 2 operations per dim, twice."""
    index = seen = 0
    for role in config.layer_roles:
        closed = context // role.ratio if role.owns_entries else 0
        if role.selects:
            index += 2 * config.index_n_heads * config.index_head_dim * closed
            closed = min(closed, config.index_topk)
        seen += min(config.sliding_window, context) + closed
    return Operations(
        weights=2 * active_parameters(config),
        index=index,
        attention=4 * config.num_attention_heads * config.head_dim * seen,
    )


def gqa_bytes(config: DeepseekV4Config, context: int) -> int:
    """The cache that 8 heads of 128 keys and values in bfloat16 would take in as many layers."""
    return config.num_hidden_layers * 2 * 2 * 8 * 128 * context


def row(model: str, context: int) -> dict[str, Any]:
    """The figures of a model at a context, shares as parts of one."""
    config = MODELS[model]
    ours, theirs = operations(config, context), V32.operations(context)
    # V4's indexer multiplies FP4, which takes half the time of FP8; V3.2's is FP8.
    fp8, fp8_theirs = ours.fp8_equivalent(Fraction(1, 2)), theirs.fp8_equivalent(Fraction(1))
    cache = Costs(config).kv_bytes(context)
    return {
        "model": model,
        "context": context,
        "gflop": round(ours.plain / 1e9, 1),
        "weights_gflop": round(ours.weights / 1e9, 2),
        "index_gflop": round(ours.index / 1e9, 2),
        "attention_gflop": round(ours.attention / 1e9, 2),
        "share_of_v32": round(ours.plain / theirs.plain, 4),
        "gflop_fp8": round(float(fp8) / 1e9, 1),
        "share_of_v32_fp8": round(float(fp8 / fp8_theirs), 4),
        "cache_bytes": cache,
        "cache_share_of_v32": round(cache / V32.cache_bytes(context), 4),
        "cache_share_of_gqa": round(cache / gqa_bytes(config, context), 4),
    }


def rows(contexts: Sequence[int] = CONTEXTS) -> Iterator[dict[str, Any]]:
    """A row for each model and context."""
    return (row(model, context) for model in MODELS for context in contexts)


def table(found: Sequence[dict[str, Any]]) -> str:
    """The figures as a table of Markdown, those of a million tokens beside the paper's."""
    lines = [
        "| model | context | GFLOP | of V3.2 | in FP8 units | of V3.2 | paper "
        "| cache, GiB | of V3.2 | paper | of GQA | paper |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in found:
        at_end = one["context"] == MILLION
        claims = [f"{claim:.0%}" if at_end else "" for claim in CLAIMED[one["model"]].values()]
        cells = (
            one["model"], f"{one['context']:,}",
            one["gflop"], f"{one['share_of_v32']:.1%}",
            one["gflop_fp8"], f"{one['share_of_v32_fp8']:.1%}", claims[0],
            f"{one['cache_bytes'] / 2**30:.3f}", f"{one['cache_share_of_v32']:.1%}", claims[1],
            f"{one['cache_share_of_gqa']:.2%}", claims[2],
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", default=",".join(map(str, CONTEXTS)), help="token counts")
    options = parser.parse_args(arguments)
    found = list(rows([int(context) for context in options.contexts.split(",")]))
    print(table(found))
    record(
        "efficiency",
        f"python -m benchmarks.efficiency --contexts {options.contexts}",
        found,
        FIELDS,
    )


if __name__ == "__main__":
    main()
