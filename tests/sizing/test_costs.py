"""The config's own arithmetic against the published totals and the paper's cost claims."""

from collections import Counter
from math import prod

import pytest

from dsv4_mlx.engine.drafters import _BYTES_OF_ROWS
from dsv4_mlx.model.mtp_drafts import MtpDrafts
from dsv4_mlx.release.config import FLASH, PRO, DeepseekV4Config, DSpark
from dsv4_mlx.release.tensors import TensorSpec, backbone_tensors, checkpoint_tensors
from dsv4_mlx.sizing.costs import Costs

GIB, MIB, K = 2**30, 2**20, 1024
MODELS = pytest.mark.parametrize("config", [FLASH, PRO], ids=["flash", "pro"])


def of(config: DeepseekV4Config, flash: float, pro: float) -> float:
    return flash if config is FLASH else pro


def tensors(config: DeepseekV4Config, *, backbone: bool = False) -> list[TensorSpec]:
    return list(backbone_tensors(config) if backbone else checkpoint_tensors(config))


def weights(tensors: list[TensorSpec]) -> int:
    """Two per byte of FP4, none in scales and in the tables of hash routing."""
    counted = (one for one in tensors if one.dtype != "I64" and not one.name.endswith(".scale"))
    return sum(prod(one.shape) * (2 if one.dtype == "I8" else 1) for one in counted)


@MODELS
def test_parameters(config: DeepseekV4Config) -> None:
    backbone, all_of_it = weights(tensors(config, backbone=True)), weights(tensors(config))
    assert round(backbone / 1e6) == of(config, 284_332, 1_572_997)
    assert round(all_of_it / 1e6) == of(config, 290_942, 1_598_837)
    assert round((all_of_it - backbone) / 1e6) == of(config, 6_610, 25_840)


@MODELS
def test_checkpoint_bytes_equal_the_published_index(config: DeepseekV4Config) -> None:
    found = tensors(config)
    assert sum(one.nbytes for one in found) == of(config, 159_609_485_896, 864_704_792_696)
    assert len(found) == of(config, 69_187, 145_116)
    assert round(Costs(config).backbone_bytes().total() / 1e6) == of(config, 156_016, 850_748)


@MODELS
def test_backbone_bytes_by_dtype(config: DeepseekV4Config) -> None:
    found = {k: v / 1e9 for k, v in Costs(config).backbone_bytes().items()}
    assert round(found["I8"], 2) == of(config, 138.51, 773.70)
    assert round(found["F8_E4M3"], 3) == of(config, 5.857, 22.701)
    assert round(found["BF16"], 3) == of(config, 2.828, 5.628)
    assert round(found["F32"], 3) == of(config, 0.141, 0.345)


def test_dtype_census_of_flash() -> None:
    assert Counter(one.dtype for one in tensors(FLASH)) == {
        "BF16": 433,
        "F32": 417,
        "F8_E4M3": 375,
        "F8_E8M0": 34167,
        "I64": 3,
        "I8": 33792,
    }


@MODELS
def test_bytes_read_per_decoded_token(config: DeepseekV4Config) -> None:
    assert round(Costs(config).bytes_per_token() / 1e7) == of(config, 1140, 4037)


def test_layers_have_the_published_number_of_tensors() -> None:
    names = [tensor.name for tensor in checkpoint_tensors(FLASH)]
    assert len(names) == len(set(names))
    for layer, ratio in ((0, 0), (3, 128), (2, 4)):
        own = [n for n in names if n.startswith(f"layers.{layer}.") and ".experts." not in n]
        assert len(own) == {0: 29, 128: 33, 4: 40}[ratio]


def test_base_checkpoints_hold_fp8_experts_with_float32_scales() -> None:
    base = {t.name: t for t in checkpoint_tensors(FLASH.replace(expert_dtype="fp8"))}
    assert base["layers.5.ffn.experts.7.w2.weight"][1:] == ("F8_E4M3", (4096, 2048))
    assert base["layers.5.ffn.experts.7.w2.scale"][1:] == ("F32", (32, 16))


CACHE_ROWS = [
    # context, layout, Flash GiB, Pro GiB
    (128 * K, "bf16", 0.845, 1.210),
    (128 * K, "compact", 0.431, 0.617),
    (1024 * K, "bf16", 6.724, 9.625),
    (1024 * K, "compact", 3.430, 4.910),
]


@MODELS
@pytest.mark.parametrize(("context", "layout", "flash", "pro"), CACHE_ROWS)
def test_kv_bytes(
    config: DeepseekV4Config, context: int, layout: str, flash: float, pro: float
) -> None:
    assert round(Costs(config).kv_bytes(context, layout) / GIB, 3) == of(config, flash, pro)


@pytest.mark.parametrize(("layout", "entry", "key"), [("bf16", 1024, 256), ("compact", 583, 68)])
def test_bytes_of_a_row(layout: str, entry: int, key: int) -> None:
    assert Costs(FLASH).entry_bytes(layout) == entry
    assert Costs(FLASH).index_key_bytes(layout) == key
    narrow = Costs(FLASH.replace(head_dim=64, qk_rope_head_dim=16))
    assert narrow.entry_bytes("compact") == 48 + 1 + 32


@MODELS
def test_what_a_cache_holds_before_the_first_entry(config: DeepseekV4Config) -> None:
    costs = Costs(config)
    assert round(costs.kv_bytes(0, "bf16") / MIB, 1) == of(config, 5.4, 7.6)
    assert round(costs.kv_bytes(0, "compact") / MIB, 1) == of(config, 3.1, 4.3)
    opened = costs.cache_bytes(0) - costs.kv_bytes(0)
    assert round(opened / MIB, 1) == of(config, 11.6, 17.8)


def test_entries_and_keys_follow_the_schedule() -> None:
    costs = Costs(FLASH.replace(num_hidden_layers=4, compress_ratios=(0, 4, 128, 4, 0)))
    grown = costs.kv_bytes(1000) - costs.kv_bytes(0)
    assert grown == (250 + 7 + 250) * 583 + 500 * 68


@pytest.mark.parametrize("kv", ["compact", "bf16"])
@pytest.mark.parametrize("tokens", [1, 31, 200])
def test_a_real_cache_holds_the_bytes_that_the_config_promises(tokens: int, kv: str) -> None:
    import mlx.core as mx

    from dsv4_mlx.model.numerics import Numerics
    from dsv4_mlx.model.v4 import Model

    config = FLASH.replace(
        vocab_size=64, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, head_dim=64,
        qk_rope_head_dim=16, q_lora_rank=32, o_groups=2, o_lora_rank=32, moe_intermediate_size=32,
        n_routed_experts=4, num_experts_per_tok=2, num_hash_layers=1, sliding_window=32,
        index_n_heads=4, index_head_dim=32, index_topk=8, compress_ratios=(0, 4, 128),
        num_nextn_predict_layers=0,
    )  # fmt: skip
    model = Model(config, Numerics.OFFICIAL, backend="cpu", kv=kv)
    cache = model.make_cache()
    mx.eval(model(mx.arange(tokens)[None] % 64, cache=cache))
    rows = [row for layer in cache for row in layer.rows]
    pools = [pool.rows() for row in rows for pool in row.pools()]
    held = sum(array.nbytes for array in pools if array is not None)
    assert held + sum(row.window.nbytes for row in rows) == Costs(config).kv_bytes(tokens, kv)
    fixed = sum(row.fixed_nbytes for row in rows)
    assert held + fixed == Costs(config).cache_bytes(tokens, kv)


DSPARK = DSpark(5, 128799, (40, 41, 42), 256)


def test_bytes_of_passes_with_drafts_are_those_that_predictions_are_made_of() -> None:
    """Of Flash: what 1 to 8 rows read in rows of one, and what drafts read, in GB."""
    costs = Costs(FLASH)
    rows = [costs.bytes_of_rows(count) / costs.bytes_per_token() for count in range(1, 9)]
    assert [round(one, 2) for one in rows] == list(_BYTES_OF_ROWS)
    mtp = costs.bytes_of_drafts("mtp", 1)
    assert abs(mtp / costs.bytes_per_token() - MtpDrafts.draft_costs[1]) < 0.001
    assert costs.bytes_of_drafts("mtp", 3) == 3 * mtp
    packed = costs.bytes_of_drafts("mtp", 1, packed_head=True)
    assert mtp - packed == 1_059_061_760 - 595_722_240
    assert abs(packed / costs.bytes_per_token() - MtpDrafts.packed_costs[1]) < 0.001
    assert costs.bytes_of_drafts("lookup", 7) == costs.bytes_of_drafts("dspark", 3) == 0
    stages = Costs(
        FLASH.replace(dspark=DSPARK, compress_ratios=(*FLASH.compress_ratios[:43], 0, 0, 0))
    )
    assert round(stages.bytes_of_drafts("dspark", 3) / 1e9, 1) == 3.1  # no expert shared
    assert stages.bytes_of_drafts("dspark", 1) == stages.bytes_of_drafts("dspark", 5)
    assert stages.bytes_of_drafts("dspark", 0) == 0
