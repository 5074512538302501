"""benchmarks/efficiency.py: the shares of V3.2 at a million tokens, from configs alone."""

import pytest

from benchmarks import efficiency, record
from benchmarks.efficiency import MILLION, MODELS, V32, active_parameters, operations, row
from dsv4_mlx.release.config import FLASH, PRO


def percent(share: float) -> float:
    return round(100 * share, 1)


@pytest.mark.parametrize(
    ("model", "plain", "fp8", "cache", "gqa"),
    [("V4-Flash", 12.1, 10.0, 7.3, 2.0), ("V4-Pro", 26.2, 26.5, 10.5, 2.0)],
)
def test_the_shares_at_a_million_tokens(
    model: str, plain: float, fp8: float, cache: float, gqa: float
) -> None:
    found = row(model, MILLION)
    assert percent(found["share_of_v32"]) == plain
    assert percent(found["share_of_v32_fp8"]) == fp8
    assert percent(found["cache_share_of_v32"]) == cache
    assert percent(found["cache_share_of_gqa"]) == gqa


@pytest.mark.parametrize("model", MODELS)
def test_the_shares_round_to_what_the_paper_says(model: str) -> None:
    found, claimed = row(model, MILLION), efficiency.CLAIMED[model]
    assert abs(found["share_of_v32_fp8"] - claimed["operations"]) < 0.006
    assert abs(found["cache_share_of_v32"] - claimed["cache"]) < 0.006
    assert abs(found["cache_share_of_gqa"] - claimed["cache beside GQA"]) < 0.006


def test_active_parameters_are_those_that_the_releases_name() -> None:
    assert round(active_parameters(FLASH) / 1e9) == 13
    assert round(active_parameters(PRO) / 1e9) == 49
    assert round(V32.active_parameters() / 1e9) == 37


@pytest.mark.parametrize(
    ("config", "context", "parts"),
    [
        (FLASH, 4096, (26.5, 0.35, 1.76 + 0.42)),
        (FLASH, MILLION, (26.5, 90.2, 1.76 + 21.8)),
        (PRO, 131072, (97.7, 16.1, 9.1 + 9.4)),
        (PRO, MILLION, (97.7, 128.8, 9.1 + 67.6)),
    ],
)
def test_parts_are_those_of_a_count_by_hand(config, context: int, parts: tuple[float, ...]) -> None:
    """n_CSA 64 128 2 p/4; n_CSA H 1024 2 (128 + min(topk, p/4)); n_HCA H 1024 2 (128 + p/128)."""
    found = operations(config, context)
    assert (found.weights / 1e9, found.index / 1e9, found.attention / 1e9) == pytest.approx(
        parts, rel=0.02
    )


def test_v32_at_a_million_tokens() -> None:
    found = V32.operations(MILLION)
    assert found.index == 61 * 64 * 128 * 2 * MILLION
    assert found.attention == 61 * 128 * (576 + 512) * 2 * 2048
    assert V32.cache_bytes(1) == 48068
    assert V32.operations(100).attention == found.attention * 100 // 2048


def test_short_contexts_have_no_entries_yet() -> None:
    found = operations(FLASH, 3)
    assert found.index == 0
    assert found.attention == 43 * 64 * 1024 * 2 * 3


def test_a_row_has_every_column(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    efficiency.main(["--contexts", "4096"])
    assert capsys.readouterr().out.count("| 4,096 |") == 2
    found = record.earlier("efficiency")
    assert [one["model"] for one in found] == ["V4-Flash", "V4-Pro"]
    assert set(found[0]) == {"date", "machine", "command", *efficiency.FIELDS}


def test_the_committed_rows_are_what_the_configs_give() -> None:
    found = {(one["model"], one["context"]): one for one in record.earlier("efficiency")}
    for one in efficiency.rows():
        kept = found[one["model"], str(one["context"])]
        assert {name: kept[name] for name in efficiency.FIELDS} == {
            name: str(value) for name, value in one.items()
        }
