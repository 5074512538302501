"""What a decoded token of the releases launches and reads, counted from the Metal plan's graph."""

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from benchmarks import counting, launches, record
from benchmarks.counting import AFTER, BEFORE
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.router import TopKRouter
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import FLASH, PRO, DeepseekV4Config
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.testing.checkpoints import LONG, TINY, write_tiny_checkpoint
from dsv4_mlx.tracing import block_graph, decode_graph, place_weights, round_graph
from dsv4_mlx.warm_up import shortened
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels import registry

CONTEXT = 8192
CLOSING = 8191
"""One token before a multiple of 128: every compressor closes a window."""


Graph = list[dict[str, Any]]


def counted(config: DeepseekV4Config, context: int, graph: Graph | None = None) -> launches.Report:
    graph = graph or decode_graph(config, context=context)
    return launches.report("dsv4-mlx", "", config, context, graph)


@pytest.fixture(scope="module")
def flash() -> launches.Report:
    return counted(FLASH, CONTEXT)


@pytest.fixture(scope="module")
def closing_graph() -> Graph:
    return decode_graph(FLASH, context=CLOSING)


@pytest.fixture(scope="module")
def closing(closing_graph: Graph) -> launches.Report:
    return counted(FLASH, CLOSING, closing_graph)


def test_a_flash_token_launches_at_most_1200_kernels(
    flash: launches.Report, closing: launches.Report
) -> None:
    assert flash.launches <= 1200
    assert closing.launches <= 1200


@pytest.mark.parametrize(
    ("context", "most", "buffers"),
    [(CONTEXT, 1.09, 12), pytest.param(CLOSING, 1.13, 14, marks=pytest.mark.slow)],
)
def test_a_replayed_token_launches_few_kernels_more(
    flash: launches.Report, closing: launches.Report, context: int, most: float, buffers: int
) -> None:
    """One for each row that it writes: MLX computes the place of an array of starts on the GPU."""
    built = {CONTEXT: flash, CLOSING: closing}[context]
    found = counted(FLASH, context, decode_graph(FLASH, context=context, compiled=True))
    rows = found.per_node["DynamicSliceUpdate"] / 2
    assert found.launches == built.launches + rows <= most * built.launches
    assert "SliceUpdate" not in found.per_node
    assert found.buffers <= buffers
    assert found.chain == built.chain
    assert built.launches <= 1032 or context != CONTEXT


@pytest.mark.parametrize("context", [pytest.param(CONTEXT, marks=pytest.mark.slow), CLOSING])
def test_products_that_keep_bits_launch_no_more(
    flash: launches.Report, closing: launches.Report, context: int
) -> None:
    """Plain decoding with `exact_rows` on and off."""
    built = {CONTEXT: flash, CLOSING: closing}[context]
    exact = counted(FLASH, context, decode_graph(FLASH, context=context, exact_rows=8))
    assert exact.launches <= built.launches
    assert exact.chain <= built.chain and exact.buffers <= built.buffers
    assert exact.bytes_read == built.bytes_read
    assert not {"QuantizedMatmul", "GatherQMM"} & set(exact.per_node)


@pytest.mark.parametrize("context", [pytest.param(CONTEXT, marks=pytest.mark.slow), CLOSING - 5])
def test_a_pass_of_rows_launches_little_more_than_a_token(
    flash: launches.Report, context: int
) -> None:
    """Weights are read once, experts and entries for each row."""
    rows = launches.ROWS
    graph = block_graph(FLASH, context=context, rows=rows)
    found = launches.report("", "", FLASH, context, graph, rows)
    assert flash.launches < found.launches <= 1.5 * flash.launches
    one, all_rows = flash.bytes_read["weights"], found.bytes_read["weights"]
    experts = FLASH.replace(num_experts_per_tok=rows * FLASH.num_experts_per_tok)
    assert all_rows == pytest.approx(Costs(experts).bytes_per_token(), rel=2e-3)
    assert all_rows < 2.6 * one


@pytest.mark.parametrize("context", [CLOSING, CONTEXT])
def test_a_round_reads_weights_once_and_launches_few_kernels_more(context: int) -> None:
    """Four tokens of four timelines: what works token by token is launched once for all of them,
    and what depends on a position for each, with what puts the parts together."""
    config = shortened(FLASH)
    graphs = [
        round_graph(config, contexts=[context] * 4),
        decode_graph(config, context=context, exact_rows=4),
    ]
    four, one = (counting.by_name(counting.counted(graph)) for graph in graphs)
    placed = ("SliceUpdate", "dsv4_compress", "dsv4_index", "dsv4_q", "dsv4_sparse_attention")
    parts = {"Concatenate": 2 * 4 * config.num_hidden_layers}
    expected = {name: count * (4 if name.startswith(placed) else 1) for name, count in one.items()}
    assert dict(four) == expected | parts
    assert four.total() < 0.58 * 4 * one.total()
    reads = [launches.report("", "", config, context, graph).bytes_read for graph in graphs]
    assert reads[0]["weights"] < 1.01 * reads[1]["weights"]


def test_a_flash_token_is_few_command_buffers(
    flash: launches.Report, closing: launches.Report
) -> None:
    """By MLX's rule: each stack of experts ends one by MLX's own limits, launches alone by ours."""
    assert flash.buffers <= 12
    assert closing.buffers <= 14
    experts = 2 * FLASH.num_hidden_layers
    assert flash.buffers_mlx > experts and closing.buffers_mlx > experts


def test_a_fifth_of_a_token_could_run_beside_the_rest(
    flash: launches.Report, closing: launches.Report
) -> None:
    """What is computed beside stays beside: a chain is 821 launches with either."""
    assert flash.chain <= 830
    assert closing.chain <= 830


def test_a_csa_layer_launches_at_most_30_kernels(
    flash: launches.Report, closing: launches.Report
) -> None:
    assert max(flash.per_kind["CSA"]) <= 30
    assert max(closing.per_kind["CSA"]) <= 30


def test_layers_of_a_kind_launch_alike(flash: launches.Report) -> None:
    """The first layer too: its streams come whole, and nothing copies them before it reads."""
    for counts in flash.per_kind.values():
        assert max(counts) == min(counts)


def test_the_streams_of_a_token_are_launched_at_once(flash: launches.Report) -> None:
    assert flash.per_layer[BEFORE] == flash.per_node["dsv4_embed_streams"] == 1


@pytest.mark.parametrize("compiled", [False, True], ids=["built", "compiled"])
def test_engram_adds_six_launches_to_its_layers(compiled: bool) -> None:
    engram = EngramConfig((1, 2), LONG.vocab_size, 300, max_ngram_size=3, n_heads=2, head_dim=64)
    alone, added = (
        counted(config, 512, decode_graph(config, context=512, compiled=compiled))
        for config in (LONG, LONG.replace(engram=engram))
    )
    more = {layer: added.per_layer[layer] - count for layer, count in alone.per_layer.items()}
    assert {layer: count for layer, count in more.items() if count} == {1: 6, 2: 6}
    names = ("dsv4_engram_rows", "dsv4_engram_gate", "mlx_Dequantize")
    assert [added.per_node[name] for name in names] == [2, 2, 2]


def test_of_the_embedding_one_row_is_read(closing_graph: Graph) -> None:
    """One custom kernel gets the whole table, and a token reads bfloat16 numbers of one row."""
    found = counting.reads(closing_graph, partial(launches.bytes_read, FLASH))
    (table,) = (read for read in found if read.path.endswith("embed_tokens.weight"))
    assert table.nbytes == 2 * FLASH.hidden_size


def test_a_flash_token_reads_at_most_11_7_gb(
    flash: launches.Report, closing: launches.Report
) -> None:
    assert sum(flash.bytes_read.values()) <= 11.7e9
    assert sum(closing.bytes_read.values()) <= 11.7e9


def test_weights_read_are_those_of_the_costs(flash: launches.Report) -> None:
    # Compressors' biases and norms are read only where a window closes.
    predicted = Costs(FLASH).bytes_per_token()
    assert flash.bytes_read["weights"] == pytest.approx(predicted, rel=2e-3)


def test_cache_read_is_window_selected_entries_and_every_index_key(
    flash: launches.Report,
) -> None:
    costs, ratios = Costs(FLASH), FLASH.backbone_ratios
    row, key = costs.entry_bytes("compact"), costs.index_key_bytes("compact")
    entries = ratios.count(4) * FLASH.index_topk + ratios.count(128) * (CONTEXT // 128)
    windows = len(ratios) * FLASH.sliding_window
    expected = (entries + windows) * row + ratios.count(4) * (CONTEXT // 4) * key
    assert flash.bytes_read["cache"] == expected


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(shortened(PRO), id="first layers"),
        pytest.param(PRO, id="whole", marks=pytest.mark.slow),
    ],
)
def test_the_largest_release_traces_without_its_weights(config: DeepseekV4Config) -> None:
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    decode_graph(config, context=CONTEXT)
    assert mx.get_peak_memory() - before < 64 << 20
    assert mx.get_active_memory() - before < 16 << 20


def forms(model: Model) -> dict[str, tuple[tuple[int, ...], mx.Dtype]]:
    return {name: (a.shape, a.dtype) for name, a in tree_flatten(model.parameters())}


def test_traced_weights_are_stored_as_loaded_ones(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, TINY, tokenizer=False)
    loaded = load_model(
        open_checkpoint(tmp_path), dtype=mx.bfloat16, numerics=Numerics.OFFICIAL, backend="cpu"
    )
    traced = Model(TINY, plan=registry.bind("metal"))
    place_weights(traced)
    assert forms(traced) == forms(loaded)
    assert [one.matrix is None for one in traced.joined()] == [
        one.matrix is None for one in loaded.joined()
    ]


def test_no_weight_and_no_cache_is_a_constant() -> None:
    graph = decode_graph(TINY, context=300)
    constants = next(item["constants"] for item in graph if item["type"] == "constants")
    assert max((value.size for _, value in constants), default=0) <= TINY.qk_rope_head_dim


def test_nothing_is_left_to_references(closing_graph: Graph) -> None:
    """What the Metal plan launches: own kernels, packed products, and the ends of the model."""
    names = {one.name for one in counting.counted(closing_graph)}
    launched = {name for name in names if not name.startswith("dsv4_")}
    assert launched - VIEWS == {
        "ArgReduce",  # the greedy token
        "GatherQMM",
        "QuantizedMatmul",
        "SliceUpdate",
    }


VIEWS = {"Broadcast", "Depends", "ExpandDims", "Reshape", "Slice", "Squeeze", "Transpose"}


def test_a_stray_cast_in_the_model_raises_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = counted(TINY, 300).launches
    call = TopKRouter.__call__

    def stray(self: TopKRouter, x: mx.array, tokens: mx.array) -> Any:
        return call(self, x.astype(mx.bfloat16).astype(mx.float32), tokens)

    monkeypatch.setattr(TopKRouter, "__call__", stray)
    routed = TINY.num_hidden_layers - TINY.num_hash_layers
    assert counted(TINY, 300).launches == before + 2 * routed


def test_a_batch_costs_attention_per_timeline_and_weights_once() -> None:
    one, two = (
        launches.report("", "", TINY, 300, decode_graph(TINY, context=300, batch=batch))
        for batch in (1, 2)
    )
    assert one.launches < two.launches <= 2 * one.launches
    assert two.bytes_read["weights"] < 2 * one.bytes_read["weights"]


def test_the_cpu_plan_traces_too() -> None:
    names = {one.name for one in counting.counted(decode_graph(TINY, backend="cpu", context=300))}
    assert not [name for name in names if name.startswith("dsv4_")]


def test_the_cuda_plan_is_the_same_graph() -> None:
    metal, cuda = (
        [item["name"] for item in counting.primitives(decode_graph(TINY, backend=b, context=300))]
        for b in ("metal", "cuda")
    )
    assert metal == cuda


def test_a_report_adds_up(flash: launches.Report) -> None:
    ends = flash.per_layer[BEFORE] + flash.per_layer[AFTER]
    assert flash.launches == ends + sum(map(sum, flash.per_kind.values()))
    assert flash.launches == sum(flash.per_node.values())


def test_the_command_prints_json_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setitem(launches.MODELS, "tiny", TINY)
    launches.main(["--json", "--model", "tiny", "--context", "300", "--alone"])
    printed, *others = json.loads(capsys.readouterr().out)
    names = ["dsv4-mlx compiled", "dsv4-mlx exact", "dsv4-mlx 6 rows"]
    assert [one["program"] for one in others] == names
    assert printed["launches"] == sum(printed["per_layer"].values())
    assert set(printed["per_kind"]) == {"sliding", "CSA", "HCA"}
    with (tmp_path / "launches.csv").open() as file:
        recorded, *_ = csv.DictReader(file)
    assert recorded["launches"] == str(printed["launches"])
    assert recorded["program"] == "dsv4-mlx" and recorded["context"] == "300"
    for name in ("chain", "buffers_mlx", "buffers"):
        assert recorded[name] == str(printed[name])


def test_the_command_prints_kinds_and_bytes_for_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setitem(launches.MODELS, "tiny", TINY)
    launches.main(["--model", "tiny", "--context", "300,301", "--alone"])
    shown = capsys.readouterr().out
    assert "dsv4-mlx tiny at 300 tokens: " in shown and "dsv4-mlx tiny at 301 tokens: " in shown
    assert "GB read (" in shown and "CSA" in shown and "after them: " in shown
    assert "command buffers: " in shown


def test_the_table_sets_now_below_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The latest row of the same program, model and context; where it tells nothing, nothing."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setitem(launches.MODELS, "tiny", TINY)
    ran = ["--model", "tiny", "--context", "300", "--alone"]
    launches.main(ran)
    assert " at 300, now" in (first := capsys.readouterr().out) and " at 300, 2" not in first
    values = {"program": "dsv4-mlx", "model": "tiny", "context": 300, "launches": 1234}
    record.record("launches", "", [values | {"context": 301, "launches": 77}], launches.FIELDS)
    record.record("launches", "", [values], launches.FIELDS)
    launches.main(ran)
    columns, before, now, *_ = capsys.readouterr().out.splitlines()[-9:]
    assert columns.split() == ["launches", "chain", "buffers_mlx", "buffers", "GB", "read"]
    assert before.split()[4].startswith("2") and before.split()[5:] == ["1,234"]
    report = counted(TINY, 300)
    counts = (report.launches, report.chain, report.buffers_mlx, report.buffers)
    assert now.split()[4:-1] == ["now", *(f"{count:,}" for count in counts)]
