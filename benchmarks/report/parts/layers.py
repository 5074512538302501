"""Some layers of the release at full width: a decoded token as four numbers, prompts, and heat."""

import statistics
import time
from functools import partial

import mlx.core as mx
import numpy as np

from benchmarks import launches
from benchmarks.report import limits
from benchmarks.report.setting import Setting
from benchmarks.report.sizes import layered
from benchmarks.report.synthetic import (
    FEWEST_LAYERS,
    fitting,
    flops_per_token,
    synthetic_model,
    weight_bytes,
)
from benchmarks.report.teller import Teller
from dsv4_mlx import cache as caches
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.running import steps_are_compiled
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.tracing import decode_graph

_WARM_UPS = 5  # of four tokens one closes a window: both kinds have been met
_PROMPT_ROUNDS = 3


def decode(teller: Teller, setting: Setting) -> None:
    """Rows `floor` and `decode`: under MLX's own limits or ours, wired or not, as chosen."""
    if (made := _made(teller, setting)) is None:
        return
    model, config = made
    sizes = setting.sizes
    teller.at("counting the floor")
    teller.row("floor", **counted_floor(config, sizes.context))
    teller.at("reading the prompt")
    cache = model.make_cache()
    read(model, cache, tokens_of(config, sizes.context), sizes.prefill[0])
    teller.at("decoding")
    times = four_numbers(model, cache, sizes.decode_tokens)
    teller.at("decoding as a session does")
    measured = partial(session_seconds, model, config, sizes.decode_tokens, sizes.prefill[0])
    ahead, replayed = measured(compiled=False), None
    if steps_are_compiled(setting.backend):
        teller.at("decoding by a replayed graph")
        replayed = measured(compiled=True)
    teller.row(
        "decode",
        choices=list(setting.choices),
        layers=config.num_hidden_layers,
        context=sizes.context,
        **times,
        session_s=ahead,
        replayed_s=replayed,
        peak_bytes=mx.get_peak_memory(),
    )


def prefill(teller: Teller, setting: Setting) -> None:
    """Rows `prefill`: one chunk of each length, with the least work that it is."""
    if (made := _made(teller, setting)) is None:
        return
    model, config = made
    everything = weight_bytes(config)
    for length in setting.sizes.prefill:
        teller.at(f"a prompt of {length:,} tokens")
        tokens = tokens_of(config, length)
        seconds = []
        for _ in range(1 + _PROMPT_ROUNDS):
            started = time.perf_counter()
            read(model, model.make_cache(), tokens, length)
            seconds.append(time.perf_counter() - started)
        teller.row(
            "prefill",
            choices=list(setting.choices),
            layers=config.num_hidden_layers,
            tokens=length,
            seconds=statistics.median(seconds[1:]),
            floor_flops=flops_per_token(config) * length,
            floor_bytes=everything,
            peak_bytes=mx.get_peak_memory(),
        )


def heat(teller: Teller, setting: Setting) -> None:
    """One row `heat`: decode at once, and again after some time of nothing but decoding."""
    if (made := _made(teller, setting)) is None:
        return
    model, config = made
    sizes = setting.sizes
    cache = model.make_cache()
    read(model, cache, tokens_of(config, sizes.context), sizes.prefill[0])
    teller.at("decoding, cold")
    first = four_numbers(model, cache, sizes.decode_tokens)["total_s"]
    teller.at(f"decoding for {sizes.heat_s:.0f} s")
    started, last = time.perf_counter(), first
    while True:
        kept = caches.fork(cache)  # so that the context stays what it is
        last = four_numbers(model, kept, sizes.decode_tokens)["total_s"]
        if time.perf_counter() - started >= sizes.heat_s:
            break
    teller.row("heat", after_s=time.perf_counter() - started, first_s=first, last_s=last)


def _made(teller: Teller, setting: Setting) -> tuple[Model, DeepseekV4Config] | None:
    """The model of as many layers as fit; None, and a row that says so, where not even two do."""
    sizes = setting.sizes
    if "default" in setting.choices:
        limits.leave_buffers_alone()
    limit = limits.memory_limit(setting.backend)
    count, fewest = fitting(sizes.config, limit, sizes.most_layers)
    if not count:
        teller.row("left out", layers=FEWEST_LAYERS, needed_bytes=fewest, limit_bytes=limit)
        return None
    config = layered(sizes.config, count)
    if "wired" in setting.choices:
        limits.wire(setting.backend, weight_bytes(config))
    teller.at(f"making {count} layers")
    return synthetic_model(config, setting.backend), config


def counted_floor(config: DeepseekV4Config, context: int) -> dict[str, int]:
    """What one token must read and launch, counted in its traced graph."""
    graph = decode_graph(config, context=context)
    found = launches.report("dsv4-mlx", "layers", config, context, graph)
    return {
        "bytes": sum(found.bytes_read.values()),
        "launches": found.launches,
        "chain": found.chain,
        "buffers_mlx": found.buffers_mlx,
        "buffers": found.buffers,
    }


def tokens_of(config: DeepseekV4Config, count: int) -> list[int]:
    """Seeded token ids."""
    ids = np.random.default_rng(0).integers(3, config.vocab_size, count)
    return [int(one) for one in ids]


def read(model: Model, cache: list[caches.LayerCache], tokens: list[int], chunk: int) -> None:
    """Read a prompt, so many tokens at a time."""
    for start in range(0, len(tokens), chunk):
        last = model.last_logits(mx.array([tokens[start : start + chunk]]), cache)
        mx.eval(last, caches.evaluated(cache))


def four_numbers(model: Model, cache: list[caches.LayerCache], count: int) -> dict[str, float]:
    """Medians of one token, each waited for: building the graph, handing it over, waiting."""
    token, rows = mx.array([[3]]), []
    for _ in range(_WARM_UPS + count):
        started = time.perf_counter()
        token = model.last_logits(token, cache).argmax(-1)[None]
        wanted = [token, *caches.evaluated(cache)]
        built = time.perf_counter()
        mx.async_eval(*wanted)
        encoded = time.perf_counter()
        mx.eval(*wanted)
        done = time.perf_counter()
        rows.append((built - started, encoded - built, done - encoded, done - started))
    columns = zip(*rows[_WARM_UPS:], strict=True)
    names = ("build_s", "encode_s", "wait_s", "total_s")
    return dict(zip(names, map(statistics.median, columns), strict=True))


def session_seconds(
    model: Model, config: DeepseekV4Config, count: int, prompt: int, *, compiled: bool
) -> float:
    """Seconds per token as the chat gets them, which has one token while another is computed."""
    session = Engine(model, compiled=compiled).session()
    session.sync(tokens_of(config, prompt))
    generated = session.stream(_WARM_UPS + count, stop_ids=())
    for _ in range(_WARM_UPS):
        next(generated)
    started = time.perf_counter()
    told = sum(1 for _ in generated)
    return (time.perf_counter() - started) / told
