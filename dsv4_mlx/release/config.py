"""The numbers that describe one DeepSeek-V4: sizes, schedule, routing, rope.

`DeepseekV4Config` is frozen and checked when it is made, so every other module may trust it.
Field names are the keys of the official config.json; the other spellings of that file are
translated in `config_spellings`. What a model of these sizes costs is in `costs`.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

from dsv4_mlx.errors import ConfigError
from dsv4_mlx.files.documents import shown
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.layer_roles import COMPRESS_RATIOS, LayerRole, layer_role
from dsv4_mlx.release.values import require_float, require_int

DraftKind = Literal["mtp", "dspark"]


@dataclass(frozen=True)
class RopeScaling:
    """YaRN, as compressed layers use it. Cos and sin keep amplitude one."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float

    def __post_init__(self) -> None:
        require_int(
            "rope_scaling.original_max_position_embeddings",
            self.original_max_position_embeddings,
            minimum=1,
        )
        for name in ("factor", "beta_fast", "beta_slow"):
            require_float(f"rope_scaling.{name}", getattr(self, name))
        if self.factor < 1:
            raise ConfigError(f"rope_scaling.factor is {self.factor}; expected 1 or more.")
        if self.beta_fast <= self.beta_slow:
            raise ConfigError(
                f"rope_scaling.beta_fast ({self.beta_fast}) must be larger than "
                f"rope_scaling.beta_slow ({self.beta_slow})."
            )


@dataclass(frozen=True)
class DSpark:
    """The draft stages of V4-Flash-DSpark and V4-Flash-0731."""

    block_size: int
    noise_token_id: int
    target_layer_ids: tuple[int, ...]
    markov_rank: int

    def __post_init__(self) -> None:
        require_int("dspark_block_size", self.block_size, minimum=1)
        require_int("dspark_noise_token_id", self.noise_token_id, minimum=0)
        require_int("dspark_markov_rank", self.markov_rank, minimum=1)
        for layer in self.target_layer_ids:
            require_int("dspark_target_layer_ids", layer, minimum=0)


@dataclass(frozen=True)
class DeepseekV4Config:
    """One model. Raises ConfigError, naming the key, for values no V4 can have."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    moe_intermediate_size: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    routed_scaling_factor: float
    num_hash_layers: int
    swiglu_limit: float
    sliding_window: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    hc_mult: int
    hc_sinkhorn_iters: int
    hc_eps: float
    rms_norm_eps: float
    rope_theta: float
    compress_rope_theta: float
    rope_scaling: RopeScaling | None
    max_position_embeddings: int
    compress_ratios: tuple[int, ...]
    """One per backbone layer, then those of the draft blocks."""
    num_nextn_predict_layers: int
    bos_token_id: int
    eos_token_id: int
    """The token that ends a message in prompts; see `stop_token_ids`."""
    expert_dtype: Literal["fp4", "fp8"] = "fp4"
    """How routed experts are stored; the first Flash config omits the key and means fp4."""
    initializer_range: float = 0.02
    dspark: DSpark | None = None
    other_stop_ids: tuple[int, ...] = ()
    """Further tokens that end a reply, where a checkpoint lists several."""
    engram: EngramConfig | None = None
    """The memory of N-grams that later models have; None in every DeepSeek-V4."""

    def __post_init__(self) -> None:
        _check_types(self)
        _check_schedule(self)
        _check_relations(self)

    @cached_property
    def layer_roles(self) -> tuple[LayerRole, ...]:
        """What every backbone layer reads beside its window; prediction blocks read nothing."""
        return tuple(layer_role(ratio, layer) for layer, ratio in enumerate(self.backbone_ratios))

    @property
    def backbone_ratios(self) -> tuple[int, ...]:
        """The compress ratio of every backbone layer."""
        return self.compress_ratios[: self.num_hidden_layers]

    @property
    def draft_ratios(self) -> tuple[int, ...]:
        """What `compress_ratios` lists beyond the backbone."""
        return self.compress_ratios[self.num_hidden_layers :]

    @property
    def draft_kind(self) -> DraftKind | None:
        """What the `mtp.*` tensors hold: MTP blocks, DSpark stages, or nothing."""
        if self.dspark is not None:
            return "dspark"
        return "mtp" if self.num_nextn_predict_layers else None

    @property
    def num_mtp_layers(self) -> int:
        """Multi-token prediction blocks of the kind the paper describes; DSpark has none."""
        return self.num_nextn_predict_layers if self.draft_kind == "mtp" else 0

    @property
    def num_draft_stages(self) -> int:
        """DSpark's stages; `num_nextn_predict_layers` does not count them."""
        return len(self.draft_ratios) if self.draft_kind == "dspark" else 0

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply."""
        return (self.eos_token_id, *self.other_stop_ids)

    def is_hash_layer(self, layer: int) -> bool:
        """Whether layer `layer` routes by token id instead of by score."""
        return layer < self.num_hash_layers

    def replace(self, **changes: object) -> "DeepseekV4Config":
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)  # type: ignore[arg-type]


_OBJECTS = {"rope_scaling": RopeScaling, "dspark": DSpark, "engram": EngramConfig}
_MAY_BE_ZERO = {"num_hash_layers", "num_nextn_predict_layers", "bos_token_id", "eos_token_id"}


def _check_types(config: DeepseekV4Config) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type is int:
            require_int(field.name, value, minimum=0 if field.name in _MAY_BE_ZERO else 1)
        elif field.type is float:
            require_float(field.name, value)
    if config.expert_dtype not in ("fp4", "fp8"):
        raise ConfigError(f"expert_dtype is {shown(config.expert_dtype)}; expected 'fp4' or 'fp8'.")
    for token in config.other_stop_ids:
        require_int("eos_token_id", token, minimum=0)
    for name, kind in _OBJECTS.items():
        value = getattr(config, name)
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"{name} is {shown(value)}; expected a {kind.__name__} or None.")


def _check_schedule(config: DeepseekV4Config) -> None:
    ratios, layers = config.compress_ratios, config.num_hidden_layers
    if not isinstance(ratios, tuple):
        raise ConfigError(f"compress_ratios is {shown(ratios)}; expected one number per layer.")
    for layer, ratio in enumerate(ratios):
        if isinstance(ratio, bool) or not isinstance(ratio, int) or ratio not in COMPRESS_RATIOS:
            raise ConfigError(
                f"compress_ratios[{layer}] is {shown(ratio)}; DeepSeek-V4 knows only 0, 4 and 128."
            )
    if len(ratios) < layers:
        raise ConfigError(
            f"compress_ratios has {len(ratios)} entries for {layers} layers; "
            "every layer needs its own, and none is guessed."
        )
    if config.num_hash_layers > layers:
        raise ConfigError(f"num_hash_layers is {config.num_hash_layers}, with {layers} layers.")
    if any(config.draft_ratios[: config.num_mtp_layers]):
        raise ConfigError(
            f"compress_ratios gives the prediction blocks {shown(list(config.draft_ratios))}; "
            "a DeepSeek-V4 prediction block has ratio 0."
        )


def _check_relations(config: DeepseekV4Config) -> None:
    c = config
    problems = {
        f"num_attention_heads ({c.num_attention_heads}) is not a multiple of o_groups "
        f"({c.o_groups}).": c.num_attention_heads % c.o_groups,
        f"qk_rope_head_dim ({c.qk_rope_head_dim}) must be even.": c.qk_rope_head_dim % 2,
        f"qk_rope_head_dim ({c.qk_rope_head_dim}) is larger than head_dim ({c.head_dim}).":
            c.qk_rope_head_dim > c.head_dim,
        f"qk_rope_head_dim ({c.qk_rope_head_dim}) is larger than index_head_dim "
        f"({c.index_head_dim}).": c.qk_rope_head_dim > c.index_head_dim,
        f"num_experts_per_tok ({c.num_experts_per_tok}) is larger than n_routed_experts "
        f"({c.n_routed_experts}).": c.num_experts_per_tok > c.n_routed_experts,
        f"n_shared_experts is {c.n_shared_experts}; DeepSeek-V4 has exactly one.":
            c.n_shared_experts != 1,
        f"bos_token_id ({c.bos_token_id}) is outside the vocabulary of {c.vocab_size}.":
            c.bos_token_id >= c.vocab_size,
        f"eos_token_id ({max(c.stop_token_ids)}) is outside the vocabulary of {c.vocab_size}.":
            max(c.stop_token_ids) >= c.vocab_size,
        **_engram_problems(c),
    }  # fmt: skip
    for sentence, broken in problems.items():
        if broken:
            raise ConfigError(sentence)


def _engram_problems(config: DeepseekV4Config) -> dict[str, bool]:
    engram, layers, vocab = config.engram, config.num_hidden_layers, config.vocab_size
    if engram is None:
        return {}
    return {
        f"engram.layer_ids ends at layer {engram.layer_ids[-1]}, with {layers} layers.":
            engram.layer_ids[-1] >= layers,
        f"engram.compressed_vocab_size ({engram.compressed_vocab_size}) is larger than the "
        f"vocabulary of {vocab}.": engram.compressed_vocab_size > vocab,
        f"engram.pad_token_id ({engram.pad_token_id}) is outside the vocabulary of {vocab}.":
            engram.pad_token_id >= vocab,
    }  # fmt: skip


FLASH = DeepseekV4Config(
    vocab_size=129280,
    hidden_size=4096,
    num_hidden_layers=43,
    num_attention_heads=64,
    head_dim=512,
    qk_rope_head_dim=64,
    q_lora_rank=1024,
    o_groups=8,
    o_lora_rank=1024,
    moe_intermediate_size=2048,
    n_routed_experts=256,
    n_shared_experts=1,
    num_experts_per_tok=6,
    routed_scaling_factor=1.5,
    num_hash_layers=3,
    swiglu_limit=10.0,
    sliding_window=128,
    index_n_heads=64,
    index_head_dim=128,
    index_topk=512,
    hc_mult=4,
    hc_sinkhorn_iters=20,
    hc_eps=1e-6,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    compress_rope_theta=160000.0,
    rope_scaling=RopeScaling(
        factor=16.0, original_max_position_embeddings=65536, beta_fast=32.0, beta_slow=1.0
    ),
    max_position_embeddings=1048576,
    compress_ratios=(0, 0, *(4, 128) * 20, 4, 0),
    num_nextn_predict_layers=1,
    bos_token_id=0,
    eos_token_id=1,
)
"""DeepSeek-V4-Flash as first released: 284 B parameters, 13 B active."""

PRO = FLASH.replace(
    hidden_size=7168,
    num_hidden_layers=61,
    num_attention_heads=128,
    q_lora_rank=1536,
    o_groups=16,
    moe_intermediate_size=3072,
    n_routed_experts=384,
    routed_scaling_factor=2.5,
    index_topk=1024,
    compress_ratios=(128, 128, *(4, 128) * 29, 4, 0),
)
"""DeepSeek-V4-Pro as first released: 1.6 T parameters, 49 B active."""
