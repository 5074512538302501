"""What one chunk of a prompt costs on a GPU, counted without one.

    python -m benchmarks.prefill [--model flash,pro] [--chunk 512,2048] [--context N]

For each release and chunk: launches; the bytes of arrays that the launches of a layer write, and of
all layers that are under way at a time (see `dsv4_mlx/model/pacing.py`), which is the peak beside
weights and cache; and the rows that the experts' products multiply for every row that is needed, by
MLX's own product and by ours (see `dsv4_mlx/model/expert_rows.py`). The graph is traced (see
`dsv4_mlx.tracing`) as the tokens after `--context` others. The rows go to results/prefill.csv.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks import counting
from benchmarks.record import record
from dsv4_mlx.model.expert_rows import rows_of_blocks, rows_of_mlx
from dsv4_mlx.model.pacing import UNDER_WAY, layers_at_a_time
from dsv4_mlx.release.config import FLASH, PRO, DeepseekV4Config
from dsv4_mlx.tracing import decode_graph

MODELS = {"flash": FLASH, "pro": PRO}


@dataclass(frozen=True)
class ChunkReport:
    """One chunk of one release."""

    model: str
    chunk: int
    context: int
    launches: int
    layer_bytes: int
    """Written by the launches of the layer that writes most."""
    layers_at_a_time: int
    peak_bytes: int
    """Arrays of all layers that are under way at a time."""
    mlx_rows: float
    own_rows: float
    """Multiplied for each row that an expert is to multiply, by MLX and by `expert_matmul`."""


def report(model: str, config: DeepseekV4Config, chunk: int, context: int) -> ChunkReport:
    """Trace and count a chunk of `chunk` tokens after `context` others."""
    graph = decode_graph(config, context=context, tokens=chunk)
    written: Counter[int] = Counter()
    launches = 0
    for one, (count, node) in zip(counting.counted(graph), counting.walked(graph), strict=True):
        launches += one.launches
        if count:
            written[one.layer] += sum(output.nbytes for output in node.outputs)
    layers = [written[number] for number in range(config.num_hidden_layers)]
    at_a_time = layers_at_a_time(chunk)
    together = UNDER_WAY * at_a_time
    peak = max(sum(layers[i : i + together]) for i in range(0, len(layers), at_a_time))
    sizes = (chunk, config.num_experts_per_tok, config.n_routed_experts)
    mlx, own = (
        round(rows(*sizes) / (chunk * config.num_experts_per_tok), 3)
        for rows in (rows_of_mlx, rows_of_blocks)
    )
    return ChunkReport(model, chunk, context, launches, max(layers), at_a_time, peak, mlx, own)


def line(one: ChunkReport) -> str:
    """A report for readers."""
    return (
        f"{one.model} {one.chunk:,} tokens after {one.context:,}: {one.launches:,} launches, "
        f"{one.layer_bytes / 2**30:.2f} GiB of arrays in a layer, {one.layers_at_a_time} layers "
        f"at a time, {one.peak_bytes / 2**30:.2f} GiB at most; for each row of an expert MLX "
        f"multiplies {one.mlx_rows:.2f}, we {one.own_rows:.2f}"
    )


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="flash,pro", help="out of flash, pro")
    parser.add_argument("--chunk", default="512,2048", help="tokens read at a time")
    parser.add_argument("--context", type=int, default=8192, help="tokens before the chunk")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print, record."""
    options = parsed(arguments)
    reports = [
        report(model, MODELS[model], chunk, options.context)
        for model in options.model.split(",")
        for chunk in map(int, options.chunk.split(","))
    ]
    print("\n".join(map(line, reports)))
    command = f"python -m benchmarks.prefill --model {options.model} --chunk {options.chunk}"
    rows = [asdict(one) for one in reports]
    record("prefill", f"{command} --context {options.context}", rows, tuple(rows[0]))


if __name__ == "__main__":
    main()
