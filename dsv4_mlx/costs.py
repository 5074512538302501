"""What a model costs: parameters, bytes on disk and per token, cache bytes, FLOPs.

Everything follows from the config; nothing is measured and no array is made. Bytes are plain
bytes, FLOPs count a multiply-add as two.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from dsv4_mlx.checkpoint_tensors import TensorSpec, backbone_tensors, checkpoint_tensors
from dsv4_mlx.config import DeepseekV4Config

Kv = Literal["compact", "bf16"]
"""How a cache keeps entries: 16 bits per value, or FP8/FP4 as the release stores them."""

FP8_ENTRY_BLOCK = 64
FP4_KEY_BLOCK = 32


@dataclass(frozen=True)
class Flops:
    """One generated token, by where the work goes."""

    weights: int
    indexer: int
    sliding_attention: int
    compressed_sparse_attention: int
    heavily_compressed_attention: int

    @property
    def total(self) -> int:
        return (
            self.weights
            + self.indexer
            + self.sliding_attention
            + self.compressed_sparse_attention
            + self.heavily_compressed_attention
        )


@dataclass(frozen=True)
class Costs:
    """The costs of one config."""

    config: DeepseekV4Config

    # Weights

    def parameters(self) -> int:
        """All weights in the checkpoint's files, prediction blocks included."""
        return sum(tensor.parameters for tensor in checkpoint_tensors(self.config))

    def backbone_parameters(self) -> int:
        return sum(tensor.parameters for tensor in backbone_tensors(self.config))

    def mtp_parameters(self) -> int:
        return self.parameters() - self.backbone_parameters()

    def active_parameters(self) -> int:
        """Weights one token is multiplied with; the embedding is a look-up and not counted."""
        used = (_share(t, self.config) * t.parameters for t in backbone_tensors(self.config))
        return int(sum(used))

    def tensor_counts(self) -> Counter[str]:
        """Tensors in the checkpoint by stored dtype."""
        return Counter(tensor.dtype for tensor in checkpoint_tensors(self.config))

    def checkpoint_bytes(self) -> Counter[str]:
        """Bytes of the checkpoint's tensors by stored dtype."""
        return _bytes_by_dtype(checkpoint_tensors(self.config))

    def backbone_bytes(self) -> Counter[str]:
        return _bytes_by_dtype(backbone_tensors(self.config))

    def bytes_per_token(self) -> int:
        """Weight bytes read to decode one token, as loaded: FP4 and FP8 in MLX's own formats."""
        read = (_share(t, self.config) * _loaded_bytes(t) for t in backbone_tensors(self.config))
        return int(sum(read))

    # Cache

    def entry_bytes(self, kv: Kv = "compact") -> int:
        """One window row or compressed entry."""
        head_dim, rope = self.config.head_dim, self.config.qk_rope_head_dim
        if kv == "bf16":
            return 2 * head_dim
        plain = head_dim - rope
        return plain + _ceil_div(plain, FP8_ENTRY_BLOCK) + 2 * rope

    def index_key_bytes(self, kv: Kv = "compact") -> int:
        """One index key."""
        width = self.config.index_head_dim
        return 2 * width if kv == "bf16" else width // 2 + _ceil_div(width, FP4_KEY_BLOCK)

    def entries(self, context: int) -> int:
        """Compressed entries of all layers after ``context`` tokens."""
        return sum(context // ratio for ratio in self.config.backbone_ratios if ratio)

    def index_keys(self, context: int) -> int:
        """Index keys of all layers after ``context`` tokens."""
        return self._layers(4) * (context // 4)

    def growth_per_token(self, kv: Kv = "compact") -> float:
        """Cache bytes that each further token adds, on average."""
        entries = sum(1 / ratio for ratio in self.config.backbone_ratios if ratio)
        keys = self._layers(4) / 4
        return entries * self.entry_bytes(kv) + keys * self.index_key_bytes(kv)

    def window_bytes(self, kv: Kv = "compact") -> int:
        """The window rings of all layers."""
        rows = self.config.num_hidden_layers * self.config.sliding_window
        return rows * self.entry_bytes(kv)

    def partial_window_bytes(self) -> int:
        """Float32 sums and scores of windows that are not complete yet, all layers.

        Ratio 4 keeps the previous window too, with channels for both, and the indexer's own.
        """
        head_dim, index_dim = self.config.head_dim, self.config.index_head_dim
        sparse = 2 * (2 * 4) * 2 * (head_dim + index_dim) * 4
        heavy = 2 * 128 * head_dim * 4
        return self._layers(4) * sparse + self._layers(128) * heavy

    def fixed_state_bytes(self, kv: Kv = "compact") -> int:
        """State whose size does not depend on the context: what a snapshot copies."""
        return self.window_bytes(kv) + self.partial_window_bytes()

    def kv_bytes(self, context: int, kv: Kv = "compact") -> int:
        """Window rings, compressed entries and index keys of one sequence of ``context`` tokens."""
        return (
            self.window_bytes(kv)
            + self.entries(context) * self.entry_bytes(kv)
            + self.index_keys(context) * self.index_key_bytes(kv)
        )

    # Work

    def flops(self, position: int) -> Flops:
        """The work of generating one token at ``position``."""
        c = self.config
        per_key = c.num_attention_heads * 2 * c.head_dim * 2  # scores, then values
        window, compressed = c.sliding_window, position // 4
        per_index_key = c.index_n_heads * c.index_head_dim * 2
        selected = min(c.index_topk, compressed)
        return Flops(
            weights=2 * self.active_parameters(),
            indexer=self._layers(4) * per_index_key * compressed,
            sliding_attention=self._layers(0) * per_key * window,
            compressed_sparse_attention=self._layers(4) * per_key * (window + selected),
            heavily_compressed_attention=self._layers(128) * per_key * (window + position // 128),
        )

    def _layers(self, ratio: int) -> int:
        return self.config.backbone_ratios.count(ratio)


def _share(tensor: TensorSpec, config: DeepseekV4Config) -> Fraction:
    """How much of a tensor one decoded token reads."""
    if tensor.name == "embed.weight" or tensor.name.endswith("tid2eid"):
        return Fraction(0)  # one row, too little to count
    if ".experts." in tensor.name:
        return Fraction(config.num_experts_per_tok, config.n_routed_experts)
    return Fraction(1)


def _loaded_bytes(tensor: TensorSpec) -> Fraction:
    """Bytes once loaded: the FP8 scale of a 128 x 128 block is repeated for every 32 weights."""
    if tensor.dtype == "F8_E4M3":
        return tensor.nbytes * Fraction(33, 32)
    is_fp4_scale = ".experts." in tensor.name and tensor.dtype == "F8_E8M0"
    if tensor.name.endswith(".scale") and not is_fp4_scale:
        return Fraction(0)
    return Fraction(tensor.nbytes)


def _bytes_by_dtype(tensors: Iterable[TensorSpec]) -> Counter[str]:
    total: Counter[str] = Counter()
    for tensor in tensors:
        total[tensor.dtype] += tensor.nbytes
    return total


def _ceil_div(amount: int, size: int) -> int:
    return -(-amount // size)
