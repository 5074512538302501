"""What the parts measure, as far as a CPU shows it."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from benchmarks.report import limits, schedule, tables, verdict
from benchmarks.report.parts import facts, layers, nano_logits, peer, streaming
from benchmarks.report.setting import Setting
from benchmarks.report.sizes import FULL, SMALL, layered
from benchmarks.report.synthetic import (
    fitting,
    flops_per_token,
    synthetic_model,
    weight_bytes,
    words,
)
from benchmarks.report.teller import Teller, placed
from dsv4_mlx.release.config import FLASH

PMSET = """System-wide power settings:
Currently in use:
 standby              1
 powermode            {}
 sleep                1 (sleep prevented by coreaudiod)
"""


@pytest.fixture(autouse=True)
def same_device_afterwards() -> Iterator[None]:
    before = mx.default_device()
    yield
    mx.set_default_device(before)


def rows(out: io.StringIO) -> list[dict[str, Any]]:
    lines = map(json.loads, out.getvalue().splitlines())
    return [line["row"] for line in lines if "row" in line]


def test_a_mac_tells_its_build_limit_and_power() -> None:
    answers = {
        "pmset -g": PMSET.format(1),
        "pmset -g batt": "Now drawing from 'AC Power'\n -InternalBattery-0",
        "sw_vers -productVersion": "15.6",
        "sw_vers -buildVersion": "24G84",
        "sysctl -n machdep.cpu.brand_string": "Apple M4 Max",
        "sysctl -n hw.memsize": "137438953472",
        "sysctl -n iogpu.wired_limit_mb": "0",
    }
    assert facts.mac(lambda command: answers[" ".join(command)]) == {
        "macos": "15.6",
        "macos_build": "24G84",
        "chip": "Apple M4 Max",
        "memory_bytes": 1 << 37,
        "wired_limit_mb": 0,
        "power_mode": "low",
        "power_source": "Now drawing from 'AC Power'",
    }
    assert facts.mac(lambda command: "")["memory_bytes"] is None


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        (PMSET.format(0), "automatic"),
        (PMSET.format(1), "low"),
        (PMSET.format(2), "high"),
        (" lowpowermode 1", "low"),
        (" lowpowermode 0", "automatic"),
        ("", "unknown"),
    ],
)
def test_power_modes(settings: str, mode: str) -> None:
    assert facts.power_mode(settings) == mode


def test_variables_of_mlx_are_told_and_folders_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_ENABLE_TF32", "0")
    monkeypatch.setenv("DSV4_HOME", "/somewhere/private")
    told = facts._variables()
    assert told["MLX_ENABLE_TF32"] == "0" and "DSV4_HOME" not in told


def test_logits_are_compared_where_tokens_part() -> None:
    expected = np.array([[0.0, 1.0, 0.5], [2.0, 1.9, 0.0]])
    found = np.array([[0.0, 1.0, 0.5], [1.9, 2.0, 0.0]])
    apart = nano_logits.apart(found, expected)
    assert apart["differs_at"] == 1
    for name in ("margin", "difference_there", "largest_difference"):
        assert apart[name] == pytest.approx(0.1)
    same = nano_logits.apart(expected, expected)
    assert same["differs_at"] is None and same["largest_difference"] == 0


def test_nano_is_compared_all_the_way_on_the_tokens_of_the_cpu(tmp_path: Path) -> None:
    out = io.StringIO()
    nano_logits.run(Teller(out, tmp_path), Setting("cpu", SMALL))
    (row,) = rows(out)
    assert row["tokens"] == SMALL.greedy_tokens and row["differs_at"] is None
    assert row["largest_difference"] == 0 and row["deviation"] > 1


def test_nano_is_compared_by_replayed_graphs(tmp_path: Path) -> None:
    out = io.StringIO()
    setting = Setting("cpu", replace(SMALL, greedy_tokens=3), ("replayed",))
    mx.disable_compile()  # each of the two tokens after the prompt is a graph then
    try:
        nano_logits.run(Teller(out, tmp_path), setting)
    finally:
        mx.enable_compile()
    (row,) = rows(out)
    assert row["graphs"] == 2
    assert verdict.is_near_tie(row) and not verdict.is_far_off(row)


def test_as_many_layers_as_fit_are_made() -> None:
    two = weight_bytes(layered(FLASH, 2))
    assert 9e9 < two < 9.5e9  # embedding and head are 2.1 of them
    assert fitting(FLASH, two, 8) == (0, two)
    assert fitting(FLASH, int(two / 0.75) + 1, 8) == (2, two)
    assert fitting(FLASH, 96 << 30, 8)[0] == 8
    assert 2 < fitting(FLASH, 24 << 30, 8)[0] < 8
    # The design counts 26 GFLOP for a token of Flash.
    assert 25e9 < flops_per_token(FLASH) < 26e9


def test_layers_that_do_not_fit_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "memory_limit", lambda backend: 8 << 30)
    out = io.StringIO()
    layers.prefill(Teller(out, tmp_path), Setting("cpu", FULL))
    assert rows(out) == [
        {
            "kind": "left out",
            "layers": 2,
            "needed_bytes": weight_bytes(layered(FLASH, 2)),
            "limit_bytes": 8 << 30,
        }
    ]


def test_random_layers_are_lively_and_finite() -> None:
    config = layered(SMALL.config, 2)
    model = synthetic_model(config, "cpu")
    logits = np.array(model(mx.array([layers.tokens_of(config, 12)])))
    assert np.isfinite(logits).all() and 0.01 < logits.std() < 100
    assert len(np.unique(logits.argmax(-1))) > 1


def test_words_repeat_nothing_at_an_even_distance() -> None:
    found = np.array(words((9, 1 << 20), mx.random.key(0), 0xFFFFFFFF))
    assert len(np.unique(found[:, :64], axis=0)) == 9
    assert len(np.unique(found[0])) > 0.99 * (1 << 20)
    masked = np.array(words((64,), mx.random.key(0), 0xBFBFBFBF))
    assert not (masked & 0x40404040).any()


def test_the_peer_is_measured_with_the_same_layers(tmp_path: Path) -> None:
    """With our own model in mlx-vlm's place, which is not installed with the tests."""
    made = []

    class Peer:
        def __init__(self, config: Any):
            from dsv4_mlx.model.v4 import Model

            self._model = Model(config, backend="cpu")
            self.make_cache, self.parameters = self._model.make_cache, self._model.parameters
            self.update = self._model.update
            made.append(config)

        def __call__(self, tokens: mx.array, cache: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=self._model(tokens, cache))

    out = io.StringIO()
    peer.measured(Teller(out, tmp_path), Setting("cpu", SMALL), "peer 1", Peer)
    assert made == [layered(SMALL.config, 2)]
    first, *prompts = rows(out)
    assert first["program"] == "peer 1" and first["layers"] == 2 and first["total_s"] > 0
    assert [row["tokens"] for row in prompts] == list(SMALL.prefill)


def test_what_our_hook_told_mlx_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from dsv4_mlx.device import command_buffers

    monkeypatch.setattr(
        command_buffers,
        "_set",
        command_buffers.CommandBuffers({}, frozenset(command_buffers.LIMITS)),
    )
    monkeypatch.setenv("MLX_MAX_OPS_PER_BUFFER", command_buffers.LIMITS["MLX_MAX_OPS_PER_BUFFER"])
    monkeypatch.setenv("MLX_MAX_MB_PER_BUFFER", "7")
    limits.leave_buffers_alone()
    assert "MLX_MAX_OPS_PER_BUFFER" not in limits.os.environ
    assert limits.os.environ["MLX_MAX_MB_PER_BUFFER"] == "7"


def test_the_schedule_has_both_limits_and_wires_on_a_mac_alone() -> None:
    for backend, count in (("metal", 4), ("cuda", 2), ("cpu", 2)):
        names = [one.name for one in schedule.models(backend) if one.name.startswith("decode")]
        assert len(names) == count
    parts = {one.name: one for one in schedule.models("metal")}
    assert parts["decode:ours,wired"].environment["MLX_MAX_OPS_PER_BUFFER"] == "100"
    assert "MLX_MAX_OPS_PER_BUFFER" not in parts["decode:default,wired"].environment
    assert parts["nano"].environment == {"MLX_ENABLE_TF32": "0"}
    assert schedule.choices("nano:replayed") == ("replayed",) and "nano:replayed" in parts
    assert "nano:replayed" not in {one.name for one in schedule.models("cpu")}
    streams = {backend: "streaming" in {one.name for one in schedule.models(backend)}
               for backend in ("metal", "cuda", "cpu")}  # fmt: skip
    assert streams == {"metal": True, "cuda": False, "cpu": True}
    assert parts["nano:tf32"].environment == {"MLX_ENABLE_TF32": "1"}
    with pytest.raises(ValueError, match="expected a part out of machine"):
        schedule.function("nothing")


def test_an_error_is_placed_in_our_files_alone() -> None:
    try:
        schedule.function("nothing")
    except ValueError as error:
        text = placed(error)
    assert "benchmarks/report/schedule.py:" in text and str(schedule.ROOT) not in text


def test_experts_in_files_are_measured_beside_those_in_memory() -> None:
    out = io.StringIO()
    small = replace(SMALL, config=SMALL.config.replace(vocab_size=512))
    streaming.run(Teller(out, Path()), Setting("cpu", small))
    nearly_all, fewest = rows(out)
    assert (nearly_all["slots"], fewest["slots"]) == (15, small.config.num_experts_per_tok)
    for row in (nearly_all, fewest):
        wanted = row["tokens"] * row["layers"] * small.config.num_experts_per_tok
        # The last token asked for its experts of hash layers, and was not read.
        ahead = small.config.num_experts_per_tok * small.config.num_hash_layers
        assert wanted <= row["hits"] + row["misses"] <= wanted + ahead
    assert nearly_all["misses"] <= fewest["misses"] and fewest["bytes_read"] > 0
    part = {"name": "streaming", "rows": rows(out)}
    page = "\n".join(tables.streaming({"parts": [part]}))
    assert "## Experts read from files, 2 layers" in page and "| 15 of 16 |" in page
