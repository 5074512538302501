"""One decoded token as launches, bytes and kernels, for any backend and without weights."""

import json
import re
from collections import Counter
from typing import Any

import dsv4_mlx  # noqa: F401  before mlx, which binds to a BLAS when it is loaded

from .addresses import digest, first

REPORT = ("benchmarks.launches:report", "benchmarks.launches.report:report")
MODELS = ("benchmarks.launches:MODELS", "benchmarks.launches.report:MODELS")
DECODE_GRAPH = ("dsv4_mlx.tracing:decode_graph",)
BIND = ("metal_kernels.registry:bind",)


def plans() -> dict[str, str]:
    """Which implementation every kernel has, by backend."""
    bind = first(*BIND)
    return {
        backend: "\n".join(f"{name} {how}" for name, how in sorted(bind(backend).chosen.items()))
        for backend in ("metal", "cuda", "cpu")
    }


def graphs(model: str, backend: str, context: int, batch: int = 1) -> dict[str, Any]:
    """Counts of a release's token at `context`, and all nodes of its graph in no order."""
    config = first(*MODELS)[model]
    trace = first(*DECODE_GRAPH)(config, backend=backend, context=context, batch=batch)
    report = first(*REPORT)("dsv4-mlx", model, config, context, trace)
    nodes = Counter(_described(item) for item in trace if item["type"] == "primitive")
    return {
        "launches": report.launches,
        "launches per layer": json.dumps(report.per_layer),
        "bytes read": json.dumps(report.bytes_read, sort_keys=True),
        "nodes": "\n".join(f"{count} {node}" for node, count in sorted(nodes.items())),
        "inputs": "\n".join(sorted(_inputs(trace))),
    }


def _described(item: dict[str, Any]) -> str:
    """A node without the names of its arrays; a kernel's text is among the arguments."""
    name, arguments = item["name"], str([_without_comments(one) for one in item["arguments"]])
    if name == "CustomKernel":
        name = f"{name} {item['arguments'][0]}"
    forms = [
        [f"{dtype}{list(shape)}" for _, shape, dtype in item[k]] for k in ("inputs", "outputs")
    ]
    return f"{name} {digest(arguments.encode())} {' '.join(forms[0])} -> {' '.join(forms[1])}"


def _without_comments(argument: Any) -> Any:
    """A kernel's text as its compiler reads it; any other argument as it is."""
    if not isinstance(argument, str):
        return argument
    return " ".join(re.sub("//[^\n]*", "", argument).split())


def _inputs(trace: list[dict[str, Any]]) -> list[str]:
    """Forms of all weights and cache arrays; the paths of the cache are nobody's business."""
    (forms,) = (item["inputs"] for item in trace if item["type"] == "inputs")
    (keywords,) = (item["keywords"] for item in trace if item["type"] == "keyword_inputs")
    paths = {name: path for path, name in keywords}
    found = []
    for name, shape, dtype in forms:
        path = paths.get(name, "")
        found.append(f"{path if path.startswith('model.') else 'cache'} {dtype} {list(shape)}")
    return found
