"""What a model costs: bytes of its weights, on disk and per token, and of its cache.

Everything follows from the config; nothing is measured and no array is made. Bytes are plain bytes.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.release.layer_roles import LayerRole
from dsv4_mlx.release.tensors import (
    FP8_BLOCK,
    TensorSpec,
    backbone_tensors,
    dspark_tensors,
    mtp_tensors,
)
from dsv4_mlx.weights.forms import DRAFT_HEAD, Mxfp4Form, Mxfp8Form, total_bytes
from metal_kernels.shared.rows import RowStorage, row_bytes

Kv = Literal["compact", "bf16"]
"""How a cache keeps entries: 16 bits per value, or FP8/FP4 as the release stores them."""

_STORAGE: dict[Kv, RowStorage] = {"compact": "compact", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Costs:
    """The costs of one config; what a cache takes, of some `layers` of it or of all."""

    config: DeepseekV4Config
    layers: LayerRange | None = None

    def backbone_bytes(self) -> Counter[str]:
        """Bytes of the backbone's tensors in the checkpoint's files, by stored dtype."""
        total: Counter[str] = Counter()
        for tensor in backbone_tensors(self.config):
            total[tensor.dtype] += tensor.nbytes
        return total

    def bytes_per_token(self) -> int:
        """Weight bytes read to decode one token, as loaded: FP4 and FP8 in MLX's own formats."""
        return self.bytes_of_rows(1)

    def bytes_of_rows(self, rows: int) -> int:
        """The same of one call that reads `rows` tokens: what all of them multiply is read once,
        and no two tokens share an expert while there are others."""
        return int(self._read("backbone", rows))

    def bytes_of_drafts(self, kind: str, drafts: int, *, packed_head: bool = False) -> int:
        """Weight bytes read to make `drafts` drafts of a pass: `mtp` one after the other, each with
        the head; `dspark` in one run of its block, whatever is used of it; others none.
        With `packed_head` from the head's copy in eight bits."""
        head = self._packed_head() if packed_head else self._read("head", 1)
        if kind == "mtp":
            return int(drafts * (self._read("mtp", 1) + head))
        if kind != "dspark" or not drafts or self.config.dspark is None:
            return 0
        block = self.config.dspark.block_size
        return int(self._read("dspark", block) + (block - 1) * self._read("markov_w2", 1) + head)

    def _packed_head(self) -> Fraction:
        shape = self.config.vocab_size, self.config.hidden_size
        return Fraction(total_bytes(DRAFT_HEAD.loaded(shape, "BF16")))

    def _read(self, part: str, rows: int) -> Fraction:
        """Bytes that a call of so many tokens reads of a part of the tensors."""
        found = _bytes_by_share(self.config, part)
        return sum((_share(kind, self.config, rows) * n for kind, n in found), Fraction(0))

    def entry_bytes(self, kv: Kv = "compact") -> int:
        """Bytes of one window row or compressed entry."""
        return row_bytes(_STORAGE[kv], "latent", self.config.head_dim, self.config.qk_rope_head_dim)

    def index_key_bytes(self, kv: Kv = "compact") -> int:
        """Bytes of one index key."""
        return row_bytes(_STORAGE[kv], "key", self.config.index_head_dim)

    def kv_bytes(self, context: int, kv: Kv = "compact") -> int:
        """Window rings, compressed entries and index keys of one sequence of `context` tokens."""
        entry, key = self.entry_bytes(kv), self.index_key_bytes(kv)
        total = 0
        for role in self._roles():
            closed = context // role.ratio if role.owns_entries else 0
            total += (self.config.sliding_window + closed) * entry + role.selects * closed * key
        return total

    def cache_bytes(self, context: int, kv: Kv = "compact") -> int:
        """All that a cache holds of one sequence of `context` tokens: `kv_bytes` and the float32
        latents and scores of windows that are not complete yet, with Engram the last token ids."""
        engram = self.config.engram
        tables = [] if engram is None else [one for one in engram.layer_ids if self._has(one)]
        ids = 0 if engram is None else 4 * engram.kept_tokens * len(tables)
        open_rows = sum(map(self._open_bytes, self._roles()))
        return self.kv_bytes(context, kv) + open_rows + ids

    def _has(self, layer: int) -> bool:
        return self.layers is None or self.layers.first <= layer < self.layers.stop

    def _roles(self) -> list[LayerRole]:
        return [one for layer, one in enumerate(self.config.layer_roles) if self._has(layer)]

    def _open_bytes(self, role: LayerRole) -> int:
        if not role.owns_entries:
            return 0
        widths = self.config.head_dim + role.selects * self.config.index_head_dim
        rows, values = role.spanned * role.ratio, 2 * role.spanned * widths
        return 4 * rows * values


@lru_cache(maxsize=32)  # of Flash 34,000 tensors
def _bytes_by_share(config: DeepseekV4Config, part: str) -> tuple[tuple[str, int], ...]:
    """Loaded bytes of the tensors of a part, by what is read of them: `all` of it, `experts`, or a
    table by the number of its rows."""
    tensors: Iterable[TensorSpec] = backbone_tensors(config)
    if part == "mtp":
        tensors = mtp_tensors(config, "mtp.0.")
    elif part in ("dspark", "markov_w2"):
        tensors = dspark_tensors(config)
    total: Counter[str] = Counter()
    for tensor in tensors:
        if part in ("head", "markov_w2") and not tensor.name.endswith(f"{part}.weight"):
            continue
        if not tensor.name.endswith(("embed.weight", "tid2eid", ".markov_w1.weight")):
            total["experts" if ".experts." in tensor.name else "all"] += _loaded_bytes(tensor)
        elif ".engram.embed." in tensor.name:
            total[str(tensor.shape[0])] += _loaded_bytes(tensor)
        # Of other tables a row for each token, too little to count.
    return tuple(total.items())


def _share(kind: str, config: DeepseekV4Config, rows: int) -> Fraction:
    """How much of tensors of a kind a call of so many tokens reads."""
    if kind == "experts":
        chosen = min(rows * config.num_experts_per_tok, config.n_routed_experts)
        return Fraction(chosen, config.n_routed_experts)
    if kind == "all" or config.engram is None:
        return Fraction(1)
    return Fraction(rows * config.engram.rows_per_token, int(kind))


def _loaded_bytes(tensor: TensorSpec) -> int:
    """Bytes once loaded: packed weights with their scales, the others as they are stored."""
    shape = tensor.shape
    match tensor.dtype:
        case "I8":
            return total_bytes(Mxfp4Form().loaded((*shape[:-1], 2 * shape[-1]), "BF16"))
        case "F8_E4M3":
            return total_bytes(Mxfp8Form(FP8_BLOCK).loaded(shape, "BF16"))
    return 0 if tensor.name.endswith(".scale") else tensor.nbytes
