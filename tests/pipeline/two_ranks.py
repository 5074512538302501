"""Two processes that run a scenario on a model cut in two, over MLX's ring on loopback.

Rank 0 runs a function of `tests.pipeline.scenarios`, rank 1 follows; each says what it saw.
"""

import json
import sys
from pathlib import Path
from typing import Any

LIMIT_S = 240


def run(scenario: str, folder: Path, out: Path, numerics: str) -> list[dict[str, Any]]:
    """Run both ranks to their end: what each of them saw."""
    from benchmarks.rank_processes import run_ranks

    arguments = [scenario, str(folder), str(out), numerics]
    return [json.loads(said) for said in run_ranks("tests.pipeline.two_ranks", arguments, LIMIT_S)]


def main(descriptor: str, scenario: str, folder: str, out: str, numerics: str) -> None:
    """One rank."""
    from benchmarks.rank_processes import Rank
    from dsv4_mlx.model.numerics import Numerics
    from dsv4_mlx.pipeline.part_loading import load_part
    from dsv4_mlx.pipeline.piped import PipelineModel
    from dsv4_mlx.pipeline.worker import PipeWorker
    from dsv4_mlx.weights.checkpoint import open_checkpoint
    from tests.pipeline import scenarios
    from tests.pipeline.reads import recorded_reads

    group, control = Rank.begun(descriptor)
    with recorded_reads() as read:
        checkpoint = open_checkpoint(folder)
        part = load_part(checkpoint, group, numerics=Numerics(numerics), backend="cpu")
    seen: dict[str, Any] = {
        "layers": [part.own.start, part.own.stop],
        "read": read,
        "bytes_loaded": part.bytes_loaded,
        "parameters": sorted(part.model) + ["lm_head"] * hasattr(part, "lm_head"),
    }
    if group.rank() == 0:
        model = PipelineModel(part, group, control)
        seen["pipeline"] = model.pipeline
        seen |= getattr(scenarios, scenario)(model, Path(out))
        model.close()
        seen["sent"] = [message.hex() for message in control.sent]
    else:
        worker, held = PipeWorker(part, group, control), []
        while worker.follow():
            held.append(worker.held)
        seen["held"] = held
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
