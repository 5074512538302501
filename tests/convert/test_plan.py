"""A plan is made from headers alone, for models of any size, and says what will happen."""

import json

import pytest

from convert.app import main
from convert.plan import plan_conversion
from convert.report import bytes_per_token, facts, kinds, memory_needed
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint

GIB = 1 << 30


@pytest.fixture(scope="module", params=["flash", pytest.param("pro", marks=pytest.mark.slow)])
def complete(request):
    """The complete release as headers, and its plan."""
    folder = request.getfixturevalue(f"{request.param}_headers")
    return request.param, folder, plan_conversion(open_checkpoint(folder))


def test_the_complete_releases_are_planned_from_headers(complete):
    name, folder, plan = complete
    data = facts(plan, folder.parent / "absent")
    published = {"flash": (69_187, 159_609_485_896), "pro": (145_116, 864_704_792_696)}[name]
    assert (data["source_tensors"], data["source_bytes"]) == published
    used = [entry.name for job in plan.jobs for entry in job.sources]
    assert len(used) == len(set(used)) == published[0]
    assert bytes_per_token(plan) == Costs(plan.source.config).bytes_per_token()


def test_scales_are_all_that_native_adds(complete):
    _, _, plan = complete
    fp8 = sum(job.weights for job in plan.jobs if job.format == "mxfp8")
    per_block = -(-fp8 // (128 * 128))
    tables = sum(job.weights for job in plan.jobs if job.format == "int32")
    source = sum(entry.nbytes for entry in plan.source.tensors.values())
    assert plan.nbytes == source + fp8 // 32 - per_block - 4 * tables


def test_memory_is_weights_cache_and_allowance(complete):
    name, _, plan = complete
    costs = Costs(plan.source.config)
    million = memory_needed(plan, 1 << 20) - memory_needed(plan, 131_072)
    assert million == costs.kv_bytes(1 << 20, "compact") - costs.kv_bytes(131_072, "compact")
    assert memory_needed(plan, 1 << 20) > plan.nbytes + 2 * GIB
    fits = facts(plan, plan.source.folder)["macs"]
    assert fits["M3 Ultra 256 GB"]["1M"] == ("fits" if name == "flash" else "no")
    assert fits["M2 Ultra 192 GB"]["8K"] == ("raised limit" if name == "flash" else "no")


def test_kinds_add_up(complete):
    _, _, plan = complete
    assert sum(kind.nbytes for kind in kinds(plan)) == plan.nbytes


def test_dry_run_writes_nothing_and_prints_the_plan(tmp_path, capsys):
    source = write_tiny_checkpoint(tmp_path / "source", TINY, dspark=True, tokenizer=False)
    assert main([str(source), str(tmp_path / "out"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "kept aside: a draft stage (DSpark), without which the model runs too" in text
    assert "memory with a context of" in text and "M3 Ultra 512 GB" in text
    assert not (tmp_path / "out").exists()


def test_dry_run_as_json_equals_the_files(tmp_path, capsys):
    source = write_tiny_checkpoint(tmp_path / "source", TINY, tokenizer=False)
    assert main([str(source), str(tmp_path / "out"), "--dry-run", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert main([str(source), str(tmp_path / "out"), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events][-1] == "done"
    assert any(event["event"] == "progress" for event in events)
    for file, size in data["shards"].items():
        assert (tmp_path / "out" / file).stat().st_size == size
