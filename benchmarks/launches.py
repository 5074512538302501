"""Launches, command buffers and bytes of one decoded token, counted without a GPU.

    python -m benchmarks.launches [--json] [--model flash,pro] [--context N,...] [--alone]

For V4-Flash and V4-Pro (or `flash-engram`, Flash with V4.1's tables in memory) at each context:
Metal launches per token, per layer and per kind of layer, the longest chain of launches that wait
for one another, command buffers by MLX's own limits and by ours (`benchmarks/encoding.py`), and the
bytes of weights and cache that the token reads. The graph
is traced (see `dsv4_mlx.tracing`), each node is counted by `benchmarks/launch_table.py`. Where
mlx-vlm is installed (`make bench` does that) its DeepSeek-V4 is counted beside it, in the same way
(see `benchmarks/mlx_vlm_graph.py`); `dsv4-mlx compiled` is the token as a graph that is built once
replays it, `dsv4-mlx exact` one whose products keep their bits among several rows, and `dsv4-mlx
6 rows` the pass of such a token and five drafts after it (see docs/speculation.md), whose rows are
taken to choose different experts and entries. At contexts like 8191 the token closes windows, so
that compressors run; at 8192 none closes. The rows go to results/launches.csv; a table at the end
sets them beside those that were there before.
"""

import argparse
import importlib.util
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import prod
from typing import Any

from benchmarks import counting, encoding
from benchmarks.counting import AFTER, BEFORE, Graph
from benchmarks.launch_rules import Node
from benchmarks.layouts import Layout
from benchmarks.record import earlier, record
from dsv4_mlx.release.config import FLASH, PRO, DeepseekV4Config
from dsv4_mlx.release.engram import EngramConfig, default_layers
from dsv4_mlx.release.layer_roles import LayerRole
from dsv4_mlx.tracing import block_graph, decode_graph

PUBLISHED_ENGRAM = EngramConfig(default_layers(FLASH.num_hidden_layers), 99092, 16_000_000)
"""V4.1's tables, on V4-Flash, which has none."""
MODELS = {"flash": FLASH, "pro": PRO, "flash-engram": FLASH.replace(engram=PUBLISHED_ENGRAM)}
FIELDS = ("program", "model", "context", "launches", "sliding_layer", "csa_layer", "hca_layer")
FIELDS += ("weights_bytes", "cache_bytes", "chain", "buffers_mlx", "buffers")


@dataclass(frozen=True)
class Report:
    """One program's model at one context."""

    program: str
    model: str
    context: int
    per_layer: dict[int, int]
    per_kind: dict[str, list[int]]
    per_node: dict[str, int]
    bytes_read: dict[str, int]
    chain: int
    """Launches that wait for one another."""
    buffers_mlx: int
    """Command buffers under MLX's own limits."""
    buffers: int
    """Command buffers under ours."""

    @property
    def launches(self) -> int:
        return sum(self.per_layer.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"launches": self.launches, "bytes": sum(self.bytes_read.values()), **vars(self)}


def report(
    program: str, model: str, config: DeepseekV4Config, context: int, graph: Graph, rows: int = 1
) -> Report:
    """Count a graph of this config, which reads `rows` tokens."""
    found = counting.counted(graph)
    per_layer = counting.by_layer(found)
    per_kind: defaultdict[str, list[int]] = defaultdict(list)
    for layer, role in enumerate(config.layer_roles):
        per_kind[kind_of(role)].append(per_layer[layer])
    reads = counting.reads(graph, partial(bytes_read, config, rows=rows))
    per_part: defaultdict[str, int] = defaultdict(int)
    for read in reads:
        per_part["cache" if read.path.startswith("cache.") else "weights"] += read.nbytes
    return Report(
        program,
        model,
        context,
        dict(sorted(per_layer.items())),
        dict(per_kind),
        dict(counting.by_name(one for one in found if one.launches).most_common()),
        dict(per_part),
        encoding.longest_chain(graph),
        encoding.command_buffers(graph, encoding.MLX_OWN),
        encoding.command_buffers(graph, encoding.OURS),
    )


def kind_of(role: LayerRole) -> str:
    """The paper's name for layers of a role."""
    return "CSA" if role.selects else "HCA" if role.owns_entries else "sliding"


def bytes_read(
    config: DeepseekV4Config, path: str, source: Layout, node: Node, rows: int = 1
) -> int:
    """Bytes that tokens read of the input at `path`, through a kernel that sees `source`.

    All of it, but the rows that are looked up, the chosen experts, and of the cache the rows that
    exist and are attended. No two of `rows` tokens choose the same experts or entries.
    """
    if node.name in ("Gather", "GatherAxis"):
        return min(source.nbytes, node.outputs[0].nbytes)
    if path.startswith("cache."):
        return _cache_bytes(config, path, source, node, rows)
    if path.endswith(("tid2eid", "embed_tokens.weight")):
        return rows * source.nbytes // source.shape[0]
    if ".experts." in path or ".switch_mlp." in path:
        chosen = min(rows * config.num_experts_per_tok, config.n_routed_experts)
        return source.nbytes * chosen // config.n_routed_experts
    return source.nbytes


def _cache_bytes(config: DeepseekV4Config, path: str, source: Layout, node: Node, rows: int) -> int:
    if node.name in ("SliceUpdate", "DynamicSliceUpdate"):
        return 0  # writes rows, reads none
    row = source.nbytes // prod(source.shape[:2])
    layer = int(path.split(".")[1])
    if ".entries." in path and config.layer_roles[layer].selects:
        return row * min(rows * config.index_topk, source.shape[1])
    return row * source.shape[1]


def lines(one: Report) -> list[str]:
    """A report for readers."""
    read = one.bytes_read
    title = f"{one.program} {one.model} at {one.context:,} tokens: {one.launches:,} launches"
    if read:
        parts = ", ".join(f"{name} {nbytes / 1e9:.3f}" for name, nbytes in read.items())
        title += f", {sum(read.values()) / 1e9:.3f} GB read ({parts})"
    found = [title, f"  {one.chain:,} of them wait for one another"]
    found.append(f"  command buffers: {one.buffers_mlx} by MLX's own limits, {one.buffers} by ours")
    for kind, counts in one.per_kind.items():
        spread = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
        found.append(f"  {kind:8} {len(counts):3} layers, {spread} launches each")
    ends = (("before the layers", BEFORE), ("after them", AFTER))
    found += [f"  {name}: {one.per_layer.get(layer, 0)}" for name, layer in ends]
    found.append("  " + ", ".join(f"{name} {n}" for name, n in list(one.per_node.items())[:24]))
    return found


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--model", default="flash,pro", help=f"out of {', '.join(MODELS)}")
    parser.add_argument("--context", default="8191,8192", help="tokens before the counted one")
    parser.add_argument("--backend", default="metal", help="whose kernels are traced")
    parser.add_argument("--alone", action="store_true", help="without mlx-vlm beside")
    return parser.parse_args(arguments)


ROWS = 6
"""Of a pass of a token and as many drafts as are made where nobody says it."""
OF_ROWS = f"dsv4-mlx {ROWS} rows"


def programs(backend: str, alone: bool) -> dict[str, Callable[..., Graph]]:
    """What is counted: a program's name and how its graph is traced."""
    traced = partial(decode_graph, backend=backend)
    found: dict[str, Callable[..., Graph]] = {
        "dsv4-mlx": traced,
        "dsv4-mlx compiled": partial(traced, compiled=True),
        "dsv4-mlx exact": partial(traced, exact_rows=ROWS),
        OF_ROWS: partial(block_graph, backend=backend, rows=ROWS),
    }
    if not alone and importlib.util.find_spec("mlx_vlm"):
        from benchmarks import mlx_vlm_graph

        found[f"mlx-vlm {version('mlx-vlm')}"] = mlx_vlm_graph.decode_graph
    return found


def row(one: Report) -> dict[str, Any]:
    """A report as a row of the results."""
    kinds = {f"{kind.lower()}_layer": max(counts) for kind, counts in one.per_kind.items()}
    read = {f"{name}_bytes": nbytes for name, nbytes in one.bytes_read.items()}
    values = {"program": one.program, "model": one.model, "context": one.context}
    encoded = {name: getattr(one, name) for name in ("chain", "buffers_mlx", "buffers")}
    return values | {"launches": one.launches} | kinds | read | encoded


_COLUMNS = ("launches", "chain", "buffers_mlx", "buffers", "GB read")


def table(found: Sequence[dict[str, Any]], before: Sequence[dict[str, str]]) -> list[str]:
    """Rows of now below the latest of the same program, model and context that were there before;
    nothing where a row did not tell."""
    lines = ["", _line("", _COLUMNS)]
    for one in found:
        title = f"{one['program']} {one['model']} at {one['context']:,}"
        same = [old for old in before if all(old[key] == str(one[key]) for key in _SAME)]
        lines += [_line(f"{title}, {old['date']}", _cells(old)) for old in same[-1:]]
        lines.append(_line(f"{title}, now", _cells(one)))
    return lines


_SAME = ("program", "model", "context")


def _line(title: str, cells: Iterable[str]) -> str:
    return f"{title:42}" + "".join(f"{cell:>13}" for cell in cells)


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    for name in _COLUMNS[:-1]:
        yield f"{int(row[name]):,}" if row.get(name) else ""
    parts = [row.get(name) for name in ("weights_bytes", "cache_bytes")]
    yield f"{sum(map(int, parts)) / 1e9:.3f}" if all(parts) else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print, record."""
    options = parsed(arguments)
    reports = [
        report(
            program,
            model,
            MODELS[model],
            context,
            trace(MODELS[model], context=context),
            ROWS if program == OF_ROWS else 1,
        )
        for model in options.model.split(",")
        for context in map(int, options.context.split(","))
        for program, trace in programs(options.backend, options.alone).items()
    ]
    found, before = [row(one) for one in reports], earlier("launches")
    if options.json:
        print(json.dumps([one.as_dict() for one in reports], indent=1))
    else:
        print("\n".join(line for one in reports for line in lines(one)))
        print("\n".join(table(found, before)))
        if not options.alone and not any("mlx-vlm" in one.program for one in reports):
            print("mlx-vlm is not installed, so it was not counted beside; make bench installs it.")
    command = f"python -m benchmarks.launches --model {options.model} --context {options.context}"
    record("launches", f"{command} --backend {options.backend}", found, FIELDS)


if __name__ == "__main__":
    main()
