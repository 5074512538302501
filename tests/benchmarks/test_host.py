"""Python's share of a decoded token: bytecodes, counted, and what is kept between calls."""

import sys
from collections import Counter
from typing import Any

import mlx.core as mx
import pytest

from benchmarks import host
from dsv4_mlx import tracing
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.testing.checkpoints import TINY
from dsv4_mlx.unloaded import cache_after
from dsv4_mlx.warm_up import shortened
from metal_kernels import sources
from metal_kernels.variants import recording

MOST = 280_000
"""For a token of Flash whose graph is built anew, counted by CPython 3.11."""
SHORT, MOST_SHORT = shortened(FLASH), {8192: 32_500, 8190: 61_000}
"""Five layers of it, of every kind, and as much above what they take: 25,974 and 48,772."""
MOST_REPLAYED = 60_000
"""For one that replays a graph."""
MOST_SHORT_REPLAYED = MOST_REPLAYED * SHORT.num_hidden_layers // FLASH.num_hidden_layers


@pytest.fixture(scope="module")
def flash() -> host.Host:
    return host.host("flash", SHORT, 8192)


def test_layers_of_a_flash_token_are_built_in_few_bytecodes(flash: host.Host) -> None:
    """Where no window closes, and where every compressor closes one."""
    assert flash.bytecodes <= MOST_SHORT[8192]
    assert host.built(SHORT, 8190).total() <= MOST_SHORT[8190]


@pytest.mark.slow
@pytest.mark.parametrize("context", [8190, 8192])
def test_a_flash_token_is_built_in_few_bytecodes(context: int) -> None:
    assert host.built(FLASH, context).total() <= MOST


def test_layers_of_a_flash_token_are_replayed_in_fewer() -> None:
    assert 0 < host.replayed(SHORT, 8192).total() <= MOST_SHORT_REPLAYED


@pytest.mark.slow
@pytest.mark.parametrize("context", [8190, 8192])
def test_a_flash_token_is_replayed_in_fewer(context: int) -> None:
    assert 0 < host.replayed(FLASH, context).total() <= MOST_REPLAYED


def test_a_pass_of_rows_is_built_in_less_than_half_more_than_a_token() -> None:
    """So it needs no graph of its own. Windows close inside of the first one. Of Flash's first
    layers, which have every kind of layer: it is 1.2 times for all 43 of them."""
    one = host.built(SHORT, 8192, exact_rows=8).total()
    for context, rows in ((8186, 8), (8192, 2)):
        assert one < host.of_rows(SHORT, context, rows=rows).total() <= 1.5 * one


def test_a_token_that_is_drafted_from_is_replayed_in_few_more() -> None:
    """Its graph gives the streams too."""
    model, _ = tracing.traced_model(TINY, "metal", 201)
    found: Counter[str] = Counter()
    step, token = model.compiled_step(), mx.zeros((1, 1), mx.int32)
    counts = []
    with recording():
        for stepped in (step.last_logits, step.last_logits_and_features):
            stepped(token, cache_after(model, 201, 1))
            found.clear()
            with host.bytecodes(found):
                stepped(token, cache_after(model, 201, 1))
            counts.append(found.total())
    assert step.traces == 2 and counts[1] <= counts[0] + 100


def test_no_launch_is_prepared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more tokens, of which none closes a window, make ready nothing that one did not."""
    prepared: list[str] = []
    own = sources.Prepared.__init__

    def counting(self: sources.Prepared, backend: str, name: str, **given: Any) -> None:
        prepared.append(name)
        own(self, backend, name, **given)

    monkeypatch.setattr(sources.Prepared, "__init__", counting)
    model, cache = tracing.traced_model(TINY, "metal", 200)
    made = []
    with recording():
        for _ in range(3):
            model.last_logits(mx.zeros((1, 1), mx.int32), cache)
            made.append(len(prepared))
    assert 0 < made[0] == made[1] == made[2]


def test_a_launch_carries_a_third_of_all_shared_text(flash: host.Host) -> None:
    """24 KB of 26 to 33 in each were the same files; MLX hashes them at every launch."""
    shared = sum(len(file.read_text()) for file in sources.SHARED.glob("*.metal"))
    assert shared > 20_000
    assert flash.text_bytes <= 10_500 * flash.custom_kernels


def counted_loop(rounds: int) -> int:
    found: Counter[str] = Counter()
    with host.bytecodes(found):
        worked(rounds)
    return found["tests/benchmarks/test_host.py"]


def worked(rounds: int) -> None:
    for _ in range(rounds):
        str(rounds)


def test_bytecodes_are_counted_exactly_and_only_within() -> None:
    once, more = counted_loop(1), counted_loop(11)
    assert 0 < once < 40 and (more - once) % 10 == 0
    assert counted_loop(11) == more
    assert sys.gettrace() is None


def test_the_rows_name_every_column(flash: host.Host) -> None:
    assert list(flash.row()) == list(host.FIELDS)
    assert sum(flash.by_file.values()) == flash.bytecodes
    assert f"built: {flash.bytecodes:,} bytecodes" in host.lines(flash)[0]
