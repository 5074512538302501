"""Every tensor of an official checkpoint: name, stored dtype and shape, from the config alone.

Names are the release's. The loader checks files against this table, the tiny checkpoints of the
tests are written from it, and `costs` adds it up; its totals equal the published index files.
DSpark's draft stages (`mtp.*` of V4-Flash-DSpark and V4-Flash-0731) are described apart, as a
model runs without them.
"""

from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from dsv4_mlx.errors import ConfigError
from dsv4_mlx.files.safetensors_dtypes import Shape, tensor_bytes
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.engram import SCALE_GROUP, EngramConfig
from dsv4_mlx.release.layer_roles import WINDOW_ONLY, LayerRole

FP8_BLOCK = 128
FP4_GROUP = 32


class TensorSpec(NamedTuple):
    """One tensor as a safetensors header describes it; I8 holds two FP4 values a byte."""

    name: str
    dtype: str
    shape: Shape

    @property
    def nbytes(self) -> int:
        """Bytes of its values in a file."""
        return tensor_bytes(self.dtype, self.shape)


def checkpoint_tensors(config: DeepseekV4Config) -> Iterator[TensorSpec]:
    """Embedding, layers, final norm and head, then the MTP blocks."""
    yield from backbone_tensors(config)
    for block in range(config.num_mtp_layers):
        yield from mtp_tensors(config, f"mtp.{block}.")


def backbone_tensors(config: DeepseekV4Config) -> Iterator[TensorSpec]:
    """Everything that decoding without drafts needs."""
    vocab, hidden = config.vocab_size, config.hidden_size
    yield TensorSpec("embed.weight", "BF16", (vocab, hidden))
    for layer in range(config.num_hidden_layers):
        yield from layer_tensors(config, layer)
    yield TensorSpec("norm.weight", "BF16", (hidden,))
    yield from _hyper_head(config, "")
    yield TensorSpec("head.weight", "BF16", (vocab, hidden))


def layer_tensors(config: DeepseekV4Config, layer: int) -> Iterator[TensorSpec]:
    """One backbone block."""
    hashed = config.is_hash_layer(layer)
    yield from _block(config, f"layers.{layer}.", config.layer_roles[layer], hashed)
    if config.engram is not None and layer in config.engram.layer_ids:
        yield from _engram(config, config.engram, layer)


def _engram(config: DeepseekV4Config, engram: EngramConfig, layer: int) -> Iterator[TensorSpec]:
    """A table whose rows have a power of two for every 32 columns, and what reads them."""
    prefix, rows = f"layers.{layer}.engram.", engram.table_rows(layer)
    yield TensorSpec(f"{prefix}embed.weight", "F8_E4M3", (rows, engram.head_dim))
    yield TensorSpec(f"{prefix}embed.scale", "F8_E8M0", (rows, engram.head_dim // SCALE_GROUP))
    hidden, streams = config.hidden_size, config.hc_mult
    yield from _fp8(config, f"{prefix}wkv", (streams + 1) * hidden, engram.width)
    for name in ("q_weight", "k_weight"):
        yield TensorSpec(prefix + name, "BF16", (streams, hidden))


def mtp_tensors(config: DeepseekV4Config, prefix: str) -> Iterator[TensorSpec]:
    """One multi-token prediction block; embedding and head are the backbone's."""
    hidden = config.hidden_size
    yield from _fp8(config, f"{prefix}e_proj", hidden, hidden)
    yield from _fp8(config, f"{prefix}h_proj", hidden, hidden)
    for norm in ("enorm", "hnorm", "norm"):
        yield TensorSpec(f"{prefix}{norm}.weight", "BF16", (hidden,))
    yield from _block(config, prefix, WINDOW_ONLY, hashed=False)
    yield from _hyper_head(config, prefix)


def dspark_tensors(config: DeepseekV4Config) -> Iterator[TensorSpec]:
    """DSpark's stages; the first reads taps, the last predicts. None where a config has none."""
    dspark, hidden, stages = config.dspark, config.hidden_size, config.num_draft_stages
    if dspark is None or not stages:
        return
    for stage in range(stages):
        yield from _block(config, f"mtp.{stage}.", WINDOW_ONLY, hashed=False)
    yield from _fp8(config, "mtp.0.main_proj", hidden, len(dspark.target_layer_ids) * hidden)
    yield TensorSpec("mtp.0.main_norm.weight", "BF16", (hidden,))
    last, rank = f"mtp.{stages - 1}.", dspark.markov_rank
    yield TensorSpec(f"{last}norm.weight", "BF16", (hidden,))
    yield from _hyper_head(config, last)
    for name in ("markov_w1", "markov_w2"):
        yield TensorSpec(f"{last}markov_head.{name}.weight", "BF16", (config.vocab_size, rank))
    yield TensorSpec(f"{last}confidence_head.proj.weight", "BF16", (1, hidden + rank))


def _block(
    config: DeepseekV4Config, prefix: str, role: LayerRole, hashed: bool
) -> Iterator[TensorSpec]:
    for part in ("attn", "ffn"):
        yield TensorSpec(f"{prefix}{part}_norm.weight", "BF16", (config.hidden_size,))
        yield from _hyper_connection(config, f"{prefix}hc_{part}_")
    yield from _attention(config, f"{prefix}attn.")
    if role.owns_entries:
        yield from _compressor(config, f"{prefix}attn.compressor.", role, config.head_dim)
    if role.selects:
        yield from _indexer(config, f"{prefix}attn.indexer.", role)
    yield from _mixture(config, f"{prefix}ffn.", hashed)


def _hyper_connection(config: DeepseekV4Config, prefix: str) -> Iterator[TensorSpec]:
    streams = config.hc_mult
    rows = (2 + streams) * streams
    yield TensorSpec(f"{prefix}fn", "F32", (rows, streams * config.hidden_size))
    yield TensorSpec(f"{prefix}base", "F32", (rows,))
    yield TensorSpec(f"{prefix}scale", "F32", (3,))


def _hyper_head(config: DeepseekV4Config, prefix: str) -> Iterator[TensorSpec]:
    streams = config.hc_mult
    yield TensorSpec(f"{prefix}hc_head_fn", "F32", (streams, streams * config.hidden_size))
    yield TensorSpec(f"{prefix}hc_head_base", "F32", (streams,))
    yield TensorSpec(f"{prefix}hc_head_scale", "F32", (1,))


def _attention(config: DeepseekV4Config, prefix: str) -> Iterator[TensorSpec]:
    c = config
    heads_width = c.num_attention_heads * c.head_dim
    grouped = c.o_groups * c.o_lora_rank
    yield from _fp8(c, f"{prefix}wq_a", c.q_lora_rank, c.hidden_size)
    yield TensorSpec(f"{prefix}q_norm.weight", "BF16", (c.q_lora_rank,))
    yield from _fp8(c, f"{prefix}wq_b", heads_width, c.q_lora_rank)
    yield from _fp8(c, f"{prefix}wkv", c.head_dim, c.hidden_size)
    yield TensorSpec(f"{prefix}kv_norm.weight", "BF16", (c.head_dim,))
    yield TensorSpec(f"{prefix}attn_sink", "F32", (c.num_attention_heads,))
    yield from _fp8(c, f"{prefix}wo_a", grouped, heads_width // c.o_groups)
    yield from _fp8(c, f"{prefix}wo_b", c.hidden_size, grouped)


def _compressor(
    config: DeepseekV4Config, prefix: str, role: LayerRole, head_dim: int
) -> Iterator[TensorSpec]:
    # Where windows overlap, a second half of the channels feeds the next window.
    width = head_dim * role.spanned
    yield TensorSpec(f"{prefix}ape", "F32", (role.ratio, width))
    yield TensorSpec(f"{prefix}wkv.weight", "BF16", (width, config.hidden_size))
    yield TensorSpec(f"{prefix}wgate.weight", "BF16", (width, config.hidden_size))
    yield TensorSpec(f"{prefix}norm.weight", "BF16", (head_dim,))


def _indexer(config: DeepseekV4Config, prefix: str, role: LayerRole) -> Iterator[TensorSpec]:
    heads, head_dim = config.index_n_heads, config.index_head_dim
    yield from _fp8(config, f"{prefix}wq_b", heads * head_dim, config.q_lora_rank)
    yield TensorSpec(f"{prefix}weights_proj.weight", "BF16", (heads, config.hidden_size))
    yield from _compressor(config, f"{prefix}compressor.", role, head_dim)


def _mixture(config: DeepseekV4Config, prefix: str, hashed: bool) -> Iterator[TensorSpec]:
    experts, hidden, width = (
        config.n_routed_experts,
        config.hidden_size,
        config.moe_intermediate_size,
    )
    yield TensorSpec(f"{prefix}gate.weight", "BF16", (experts, hidden))
    if hashed:
        shape = (config.vocab_size, config.num_experts_per_tok)
        yield TensorSpec(f"{prefix}gate.tid2eid", "I64", shape)
    else:
        yield TensorSpec(f"{prefix}gate.bias", "F32", (experts,))
    matrices = (("w1", width, hidden), ("w2", hidden, width), ("w3", width, hidden))
    packed = _fp4 if config.expert_dtype == "fp4" else _fp8
    for expert in range(experts):
        for name, rows, columns in matrices:
            yield from packed(config, f"{prefix}experts.{expert}.{name}", rows, columns)
    for name, rows, columns in matrices:
        yield from _fp8(config, f"{prefix}shared_experts.{name}", rows, columns)


def _fp8(config: DeepseekV4Config, name: str, rows: int, columns: int) -> Iterator[TensorSpec]:
    """E4M3 with one scale per 128 x 128 block: a power of two, or FP32 in Base checkpoints."""
    yield TensorSpec(f"{name}.weight", "F8_E4M3", (rows, columns))
    blocks = (ceil(rows / FP8_BLOCK), ceil(columns / FP8_BLOCK))
    yield TensorSpec(f"{name}.scale", "F8_E8M0" if config.expert_dtype == "fp4" else "F32", blocks)


def _fp4(config: DeepseekV4Config, name: str, rows: int, columns: int) -> Iterator[TensorSpec]:
    """E2M1, two values per byte along the inputs, one power-of-two scale per 32 inputs."""
    if columns % FP4_GROUP:
        raise ConfigError(
            f"{name} has {columns} inputs; FP4 experts need hidden_size and moe_intermediate_size "
            f"to be multiples of {FP4_GROUP}."
        )
    yield TensorSpec(f"{name}.weight", "I8", (rows, columns // 2))
    yield TensorSpec(f"{name}.scale", "F8_E8M0", (rows, columns // FP4_GROUP))
