"""A small random V4 in float64 under official names, with every kind of layer."""

import numpy as np

from .formats_numpy import round_bf16

TINY = {
    "vocab_size": 96,
    "hidden_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "head_dim": 80,
    "qk_rope_head_dim": 16,
    "q_lora_rank": 32,
    "o_groups": 2,
    "o_lora_rank": 24,
    "moe_intermediate_size": 40,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "routed_scaling_factor": 1.5,
    "num_hash_layers": 2,
    "swiglu_limit": 10.0,
    "sliding_window": 24,
    "index_n_heads": 32,
    "index_head_dim": 32,
    "index_topk": 16,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "compress_rope_theta": 160000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 16,
        "original_max_position_embeddings": 65536,
        "beta_fast": 32,
        "beta_slow": 1,
    },
    "max_position_embeddings": 1048576,
    "compress_ratios": [0, 4, 128, 4, 128, 0],
    "num_nextn_predict_layers": 1,
}

# The same shapes of idea with other numbers, all small constants large enough to matter.
NARROW = {
    **TINY,
    "num_hidden_layers": 4,
    "head_dim": 64,
    "o_groups": 1,
    "o_lora_rank": 16,
    "sliding_window": 5,
    "index_topk": 3,
    "swiglu_limit": 0.5,
    "num_experts_per_tok": 1,
    "routed_scaling_factor": 2.5,
    "hc_sinkhorn_iters": 3,
    "hc_eps": 0.05,
    "rms_norm_eps": 0.01,
    "rope_scaling": None,
    "compress_ratios": [4, 128, 0, 4, 0],
}


def random_weights(config: dict = TINY, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor of `config` including mtp.0; embeddings are bfloat16 values."""
    make = _Random(config, np.random.default_rng(seed))
    vocab, hidden = config["vocab_size"], config["hidden_size"]
    weights = {
        "embed.weight": round_bf16(make.normal(vocab, hidden)),
        "head.weight": make.matrix(vocab, hidden),
        "norm.weight": make.around_one(hidden),
        **make.hyper_head(""),
    }
    for number in range(config["num_hidden_layers"]):
        ratio, hashed = config["compress_ratios"][number], number < config["num_hash_layers"]
        weights |= make.block(f"layers.{number}.", ratio, hashed)
    weights |= make.block("mtp.0.", 0, False) | make.hyper_head("mtp.0.")
    for name in ("e_proj", "h_proj"):
        weights[f"mtp.0.{name}.weight"] = make.matrix(hidden, hidden)
    for name in ("enorm", "hnorm", "norm"):
        weights[f"mtp.0.{name}.weight"] = make.around_one(hidden)
    return weights


class _Random:
    def __init__(self, config: dict, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng

    def normal(self, *shape: int, std: float = 1.0) -> np.ndarray:
        return self.rng.standard_normal(shape) * std

    def matrix(self, rows: int, columns: int) -> np.ndarray:
        return self.normal(rows, columns, std=columns**-0.5)

    def around_one(self, size: int) -> np.ndarray:
        return 1 + self.normal(size, std=0.1)

    def block(self, prefix: str, ratio: int, hashed: bool) -> dict[str, np.ndarray]:
        """One block's tensors."""
        hidden = self.config["hidden_size"]
        tensors = {"attn_norm.weight": self.around_one(hidden)}
        tensors["ffn_norm.weight"] = self.around_one(hidden)
        for sublayer in ("attn", "ffn"):
            tensors |= self.hyper_connection(f"hc_{sublayer}_")
        tensors |= self.attention(ratio) | self.moe(hashed)
        return {prefix + name: value for name, value in tensors.items()}

    def hyper_connection(self, name: str) -> dict[str, np.ndarray]:
        n = self.config["hc_mult"]
        rows = (2 + n) * n
        return {
            name + "fn": self.matrix(rows, n * self.config["hidden_size"]),
            name + "base": self.normal(rows, std=0.5),
            name + "scale": self.normal(3, std=0.7),
        }

    def hyper_head(self, prefix: str) -> dict[str, np.ndarray]:
        n = self.config["hc_mult"]
        return {
            prefix + "hc_head_fn": self.matrix(n, n * self.config["hidden_size"]),
            prefix + "hc_head_base": self.normal(n, std=0.5),
            prefix + "hc_head_scale": self.normal(1, std=0.7),
        }

    def attention(self, ratio: int) -> dict[str, np.ndarray]:
        c = self.config
        hidden, rank, heads, dim = (
            c["hidden_size"], c["q_lora_rank"], c["num_attention_heads"], c["head_dim"],
        )  # fmt: skip
        grouped = c["o_groups"] * c["o_lora_rank"]
        tensors = {
            "attn.wq_a.weight": self.matrix(rank, hidden),
            "attn.q_norm.weight": self.around_one(rank),
            "attn.wq_b.weight": self.matrix(heads * dim, rank),
            "attn.wkv.weight": self.matrix(dim, hidden),
            "attn.kv_norm.weight": self.around_one(dim),
            "attn.attn_sink": self.normal(heads),
            "attn.wo_a.weight": self.matrix(grouped, heads * dim // c["o_groups"]),
            "attn.wo_b.weight": self.matrix(hidden, grouped),
        }
        if ratio:
            tensors |= self.compressor("attn.compressor.", ratio, dim)
        if ratio == 4:
            index_heads, index_dim = c["index_n_heads"], c["index_head_dim"]
            tensors["attn.indexer.wq_b.weight"] = self.matrix(index_heads * index_dim, rank)
            tensors["attn.indexer.weights_proj.weight"] = self.matrix(index_heads, hidden)
            tensors |= self.compressor("attn.indexer.compressor.", ratio, index_dim)
        return tensors

    def compressor(self, name: str, ratio: int, dim: int) -> dict[str, np.ndarray]:
        lanes = 2 if ratio == 4 else 1
        return {
            name + "ape": self.normal(ratio, lanes * dim),
            name + "wkv.weight": self.matrix(lanes * dim, self.config["hidden_size"]),
            name + "wgate.weight": self.matrix(lanes * dim, self.config["hidden_size"]),
            name + "norm.weight": self.around_one(dim),
        }

    def moe(self, hashed: bool) -> dict[str, np.ndarray]:
        c = self.config
        hidden, experts = c["hidden_size"], c["n_routed_experts"]
        tensors = {"ffn.gate.weight": self.matrix(experts, hidden)}
        if hashed:
            shuffled = self.rng.random((c["vocab_size"], experts)).argsort(axis=1)
            tensors["ffn.gate.tid2eid"] = shuffled[:, : c["num_experts_per_tok"]]
        else:
            tensors["ffn.gate.bias"] = self.normal(experts, std=0.3)
        for name in ["shared_experts", *(f"experts.{e}" for e in range(experts))]:
            tensors |= self.expert(f"ffn.{name}.")
        return tensors

    def expert(self, name: str) -> dict[str, np.ndarray]:
        hidden, width = self.config["hidden_size"], self.config["moe_intermediate_size"]
        return {
            name + "w1.weight": 4 * self.matrix(width, hidden),  # large enough to meet the clamp
            name + "w3.weight": 4 * self.matrix(width, hidden),
            name + "w2.weight": self.matrix(hidden, width),
        }
