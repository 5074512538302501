"""The tables of the page: each from the rows of one kind, nothing where there are none."""

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.report import verdict
from benchmarks.report.verdict import parts, rows, rows_of

Found = dict[str, Any]

_SLOWEST = 5


def speeds(found: Found) -> Iterator[str]:
    """What the machine can do."""
    lines = []
    for part in parts(found, "speeds"):
        tf32 = " with TF32" if "tf32" in part["name"] else ""
        for row in rows_of(part["rows"], "speed"):
            lines.append(f"| {row['name']}{tf32} | {_amount(row)} | {_rate(row)} |")
    yield from _table("This machine", ("what", "how much", "speed"), lines)


def _amount(row: dict[str, Any]) -> str:
    if "bytes" in row:
        return f"{row['bytes'] / 1e9:.3g} GB"
    return f"{row['flops'] / 1e9:.3g} GFLOP" if "flops" in row else f"{row['count']:,} in a row"


def _rate(row: dict[str, Any]) -> str:
    if "gb_per_s" in row:
        return f"{row['gb_per_s']:,.1f} GB/s"
    if "tflop_per_s" in row:
        return f"{row['tflop_per_s']:,.3g} TFLOP/s"
    return f"{row['us']:.2f} µs each"


def kernels(found: Found) -> Iterator[str]:
    """Every kernel: right or wrong, the largest error, time beside the floor."""
    lines = [line for part in parts(found, "kernel") for line in _kernel_lines(found, part)]
    names = ("kernel", "cases", "largest error", "size", "time", "floor", "GB/s", "GFLOP/s")
    yield from _table("Kernels", names, lines)
    if lines:
        yield (
            "Errors are in root mean squares of the output; the floor is the least bytes at the "
            "speed of the matvec above, or the least operations at that of the float32 product."
        )
        yield ""


def _kernel_lines(found: Found, part: dict[str, Any]) -> Iterator[str]:
    name = part["name"].partition(":")[2]
    cases, failed = rows_of(part["rows"], "case"), rows_of(part["rows"], "failed")
    verdict_words = f"{len(cases)} of {len(cases) + len(failed)} right"
    if part["state"] != "done":
        verdict_words += f", {part['state']}"
    worst = max((row["largest_error"] for row in cases), default=None)
    error = "" if worst is None else f"{worst:.1e}"
    timings = rows_of(part["rows"], "timing")
    for row in timings:
        floor = verdict.floor_s(found, row["floor_bytes"], row["floor_flops"])
        yield (
            f"| {name} | {verdict_words} | {error} | {row['size']} | {row['median_us']:,.1f} µs | "
            f"{_us(floor)} | {row['gb_per_s']} | {row['gflop_per_s'] or ''} |"
        )
    if not timings:
        yield f"| {name} | {verdict_words} | {error} | | not timed | | | |"


def _us(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e6:,.1f} µs"


def compiling(found: Found) -> Iterator[str]:
    """First calls, now and in a second process."""
    first = {
        row["variant"]: max(0.0, row["first_s"] - row["again_s"])
        for part in parts(found, "kernel")
        for row in rows_of(part["rows"], "variant")
    }
    second = {
        row["variant"]: max(0.0, row["first_s"] - row["again_s"])
        for part in parts(found, "again")
        for row in rows_of(part["rows"], "variant")
    }
    if not first:
        return
    slowest = sorted(first, key=lambda variant: -first[variant])[:_SLOWEST]
    lines = [f"| {name} | {_ms(first[name])} | {_ms(second.get(name))} |" for name in slowest]
    common = [name for name in first if name in second]
    lines.append(
        f"| all {len(common)} that both starts met | {_ms(sum(first[name] for name in common))} | "
        f"{_ms(sum(second[name] for name in common))} |"
    )
    yield from _table("Compiling", ("variant", "first start", "second start"), lines)


def nano(found: Found) -> Iterator[str]:
    """The embedded model beside the CPU."""
    lines = []
    for part in parts(found, "nano"):
        for row in rows_of(part["rows"], "nano"):
            how = part["name"].partition(":")[2]
            how = {"tf32": "on", "replayed": "off, by replayed graphs"}.get(how, "off")
            lines.append(
                f"| {how} | {_tokens(row)} | {row['largest_difference']:.2e} of "
                f"{row['deviation']:.2f} | {_ms(row['median_s'])} |"
            )
    names = ("TF32", "tokens", "largest difference of logits, of their deviation", "per token")
    yield from _table("nano, beside the CPU", names, lines)


def _tokens(row: dict[str, Any]) -> str:
    if row["differs_at"] is None:
        return f"the same {row['tokens']}"
    kind = "a near tie" if verdict.is_near_tie(row) else "**no tie**"
    return (
        f"another one at {row['differs_at'] + 1} of {row['tokens']}: {kind}, margin "
        f"{row['margin']:.2e}, logits differ by {row['difference_there']:.2e} there"
    )


def decoding(found: Found) -> Iterator[str]:
    """A token of some layers, as four numbers and as a session gives it."""
    floors = rows(found, "floor")
    lines = []
    for row in rows(found, "decode"):
        lines.append(
            f"| {', '.join(row['choices'])} | {_ms(row['build_s'])} | {_ms(row['encode_s'])} | "
            f"{_ms(row['wait_s'])} | {_ms(row['total_s'])} | {_ms(row['session_s'])} | "
            f"{_ms(row.get('replayed_s'))} | {row['peak_bytes'] / 1e9:.2f} GB |"
        )
    names = ("limits, memory", "build", "encode", "wait", "total", "in a session",
             "the same, replayed", "peak")  # fmt: skip
    if lines:
        decoded, floor = rows(found, "decode")[0], floors[0]
        title = f"Decoding, {decoded['layers']} layers after {decoded['context']:,} tokens"
        yield from _table(title, names, lines)
        launch = verdict.speed(found, "launch")
        reading = _ms(verdict.floor_s(found, floor["bytes"]))
        waiting = launch and floor["chain"] * launch["us"] / 1e6
        yield (
            f"Floor, counted for Metal: {floor['bytes'] / 1e9:.3f} GB read, {reading} at the "
            f"speed of the matvec above; {floor['launches']:,} launches, of which "
            f"{floor['chain']:,} wait for one another, {_ms(waiting)} at the speed of empty ones; "
            f"{floor['buffers_mlx']} command buffers by MLX's limits, {floor['buffers']} by ours. "
            "In a session the next token is built while this one is computed, or a graph that was "
            "built once is replayed, as the chat does."
        )
        yield ""
    for row in rows(found, "peer"):
        yield f"{row['program']}, the same layers: {_ms(row['total_s'])} per token, waited for."
        yield ""
    for row in rows(found, "heat"):
        change = 100 * (row["last_s"] / row["first_s"] - 1)
        yield (
            f"Heat: {_ms(row['first_s'])} per token at first, {_ms(row['last_s'])} after "
            f"{row['after_s']:,.0f} s of decoding ({change:+.0f} %)."
        )
        yield ""
    if left_out := rows(found, "left out"):
        row = left_out[0]
        yield (
            f"The layers of V4-Flash were left out: {row['layers']} of them take "
            f"{row['needed_bytes'] / 1e9:.1f} GB and a model may use three quarters of "
            f"{row['limit_bytes'] / 1e9:.1f} GB here."
        )
        yield ""


def reading(found: Found) -> Iterator[str]:
    """Prompts of some lengths, and the peer's time for them."""
    peer = {row["tokens"]: row["seconds"] for row in rows(found, "peer prefill")}
    lines = []
    for row in rows(found, "prefill"):
        tf32 = "on" if "tf32" in row["choices"] else "off"
        floor = verdict.floor_s(found, row["floor_bytes"], row["floor_flops"])
        beside = peer.get(row["tokens"])
        lines.append(
            f"| {row['tokens']:,} | {tf32} | {_ms(row['seconds'])} | "
            f"{row['tokens'] / row['seconds']:,.0f} | {_ms(floor)} | "
            f"{row['peak_bytes'] / 1e9:.2f} GB | {_ms(beside)} |"
        )
    program = next((row["program"] for row in rows(found, "peer")), "mlx-vlm (not installed)")
    names = ("tokens", "TF32", "time", "tokens/s", "floor", "peak", f"{program}, time")
    layers = next((row["layers"] for row in rows(found, "prefill")), 0)
    yield from _table(f"Reading a prompt at once, {layers} layers", names, lines)


def ranks(found: Found) -> Iterator[str]:
    """The embedded model cut in two, beside itself whole."""
    for row in rows(found, "ranks"):
        token, prompt = (statistics.median(row[f"{name}_ratios"]) for name in ("token", "prompt"))
        yield (
            f"Cut in two over two processes here: {token:.2f} times {_ms(row['token_s'])} per "
            f"token without graphs, {prompt:.2f} times the prompt's time, of which rank 0 waited "
            f"{row['waited']:.0%} with {row['ahead']} of {row['calls']} chunks read ahead."
        )
        yield ""


def streaming(found: Found) -> Iterator[str]:
    """Experts read from files, beside all of them in memory."""
    lines = []
    for row in rows(found, "streaming"):
        ratios, tokens = sorted(row["ratios"]), row["tokens"]
        rate = row["bytes_read"] / row["waited_s"] / 1e9 if row["waited_s"] else 0.0
        lines.append(
            f"| {row['slots']} of {row['experts']} | {row['hits'] / tokens:.1f} | "
            f"{row['misses'] / tokens:.1f} | {_ms(row['resident_s'])} | "
            f"{ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | "
            f"{_ms(row['waited_s'] / tokens)} | {rate:.2f} GB/s |"
        )
    names = ("in memory", "hits a token", "misses a token", "all in memory, a token", "ratio",
             "waits a token", "read while it waited")  # fmt: skip
    layers = next((row["layers"] for row in rows(found, "streaming")), 0)
    yield from _table(f"Experts read from files, {layers} layers", names, lines)
    if lines:
        yield "The files were written just before, so that a system's cache may have answered."
        yield ""


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:,.2f} ms"


def _table(title: str, names: tuple[str, ...], lines: list[str]) -> Iterator[str]:
    if lines:
        yield from (f"## {title}", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|")
        yield from (*lines, "")
