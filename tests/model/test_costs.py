"""The config's own arithmetic against the published totals and the paper's cost claims."""

import pytest

from dsv4_mlx.checkpoint_tensors import checkpoint_tensors
from dsv4_mlx.config import FLASH, PRO, DeepseekV4Config
from dsv4_mlx.costs import Costs

GIB, MIB, K = 2**30, 2**20, 1024
MODELS = pytest.mark.parametrize("config", [FLASH, PRO], ids=["flash", "pro"])


def of(config: DeepseekV4Config, flash: float, pro: float) -> float:
    return flash if config is FLASH else pro


@MODELS
def test_parameters(config: DeepseekV4Config) -> None:
    costs = Costs(config)
    assert round(costs.backbone_parameters() / 1e6) == of(config, 284_332, 1_572_997)
    assert round(costs.mtp_parameters() / 1e6) == of(config, 6_610, 25_840)
    assert round(costs.parameters() / 1e6) == of(config, 290_942, 1_598_837)
    assert round(costs.active_parameters() / 1e6) == of(config, 13_270, 48_852)


@MODELS
def test_checkpoint_bytes_equal_the_published_index(config: DeepseekV4Config) -> None:
    costs = Costs(config)
    assert costs.checkpoint_bytes().total() == of(config, 159_609_485_896, 864_704_792_696)
    assert costs.tensor_counts().total() == of(config, 69_187, 145_116)
    assert round(costs.backbone_bytes().total() / 1e6) == of(config, 156_016, 850_748)


@MODELS
def test_backbone_bytes_by_dtype(config: DeepseekV4Config) -> None:
    found = {k: v / 1e9 for k, v in Costs(config).backbone_bytes().items()}
    assert round(found["I8"], 2) == of(config, 138.51, 773.70)
    assert round(found["F8_E4M3"], 3) == of(config, 5.857, 22.701)
    assert round(found["BF16"], 3) == of(config, 2.828, 5.628)
    assert round(found["F32"], 3) == of(config, 0.141, 0.345)


def test_dtype_census_of_flash() -> None:
    assert Costs(FLASH).tensor_counts() == {
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


@MODELS
@pytest.mark.parametrize(
    ("layout", "entry", "key", "flash", "pro"),
    [("bf16", 1024, 256, 6880, 9848), ("compact", 583, 68, 3508.8, 5023.7)],
)
def test_growth(
    config: DeepseekV4Config, layout: str, entry: int, key: int, flash: float, pro: float
) -> None:
    assert Costs(config).entry_bytes(layout) == entry
    assert Costs(config).index_key_bytes(layout) == key
    assert round(Costs(config).growth_per_token(layout), 1) == of(config, flash, pro)


@MODELS
def test_fixed_state(config: DeepseekV4Config) -> None:
    costs = Costs(config)
    assert round(costs.window_bytes("bf16") / MIB, 1) == of(config, 5.4, 7.6)
    assert round(costs.window_bytes("compact") / MIB, 1) == of(config, 3.1, 4.3)
    assert round(costs.partial_window_bytes() / MIB, 1) == of(config, 11.6, 17.8)
    assert costs.kv_bytes(0) == costs.window_bytes()


FLOP_ROWS = [
    # position, (Flash: indexer, sparse, heavy, total), (Pro: the same), GFLOP as the table prints
    (4 * K, (0.35, 1.76, 0.42, 29.1), (0.5, 9.1, 1.3, 108.6)),
    (32 * K, (2.8, 1.76, 1.0, 32.2), (4.0, 9.1, 3.1, 113.9)),
    (128 * K, (11.3, 1.76, 3.0, 42.6), (16.1, 9.1, 9.4, 132.2)),
    (1024 * K, (90.2, 1.76, 21.8, 140.3), (128.8, 9.1, 67.6, 303.2)),
]


@MODELS
@pytest.mark.parametrize(("position", "flash", "pro"), FLOP_ROWS)
def test_flops(
    config: DeepseekV4Config, position: int, flash: tuple[float, ...], pro: tuple[float, ...]
) -> None:
    flops = Costs(config).flops(position)
    found = (
        flops.indexer,
        flops.compressed_sparse_attention,
        flops.heavily_compressed_attention,
        flops.total,
    )
    expected = flash if config is FLASH else pro
    for value, printed in zip(found, expected, strict=True):
        decimals = len(str(printed).partition(".")[2])
        assert value / 1e9 == pytest.approx(printed, abs=0.6 * 10**-decimals)


def test_costs_follow_the_config() -> None:
    small = FLASH.replace(num_hidden_layers=4, compress_ratios=(0, 4, 128, 4, 0))
    assert Costs(small).entries(1000) == 250 + 7 + 250
    assert Costs(small).index_keys(1000) == 500
    assert Costs(small).entry_bytes("bf16") == 1024
    assert Costs(small).entry_bytes() == Costs(small).entry_bytes("compact") == 583
    assert (
        Costs(small.replace(head_dim=64, qk_rope_head_dim=16)).entry_bytes("compact") == 48 + 1 + 32
    )


@pytest.mark.parametrize("kv", ["compact", "bf16"])
@pytest.mark.parametrize("tokens", [1, 31, 200])
def test_a_real_cache_holds_the_bytes_that_the_config_promises(tokens: int, kv: str) -> None:
    import mlx.core as mx

    from dsv4_mlx.model import Model
    from dsv4_mlx.numerics import Numerics

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
    held += sum(row.window.nbytes for row in rows)
    assert held == Costs(config).kv_bytes(tokens, kv)
    fixed = sum(row.fixed_nbytes for row in rows)
    assert fixed == Costs(config).fixed_state_bytes(kv)
