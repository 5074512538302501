"""Two processes that run a scenario on a model cut in two, over MLX's ring on loopback.

    python -m tests.pipeline.two_ranks SCENARIO SOCKET FOLDER OUT     # MLX_RANK, MLX_HOSTFILE

Rank 0 runs `SCENARIO(model, out)` of `tests.pipeline.scenarios`, rank 1 follows; each writes what
it saw to OUT.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT_S = 240


def run(scenario: str, folder: Path, out: Path, **settings: str) -> list[dict[str, Any]]:
    """Run both ranks to their end: what each of them wrote."""
    ends = socket.socketpair()
    hostfile = out / "hostfile.json"
    hostfile.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.pipeline.two_ranks", scenario, str(end.fileno()),
             str(folder), str(out), json.dumps(settings)],
            env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile)},
            cwd=Path(__file__).parents[2],
            pass_fds=[end.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, end in enumerate(ends)
    ]  # fmt: skip
    for end in ends:
        end.close()
    try:
        errors = [process.communicate(timeout=LIMIT_S)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [holder.getsockname()[1] for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def main(scenario: str, descriptor: str, folder: str, out: str, settings: str) -> None:
    """One rank."""
    from dsv4_mlx import blas

    blas.ensure_fast_blas()
    import mlx.core as mx

    from dsv4_mlx.loading import load
    from dsv4_mlx.model.numerics import Numerics
    from dsv4_mlx.pipeline.piped import PipelineModel
    from dsv4_mlx.pipeline.worker import PipeWorker
    from tests.pipeline import scenarios
    from tests.pipeline.reads import recorded_reads
    from tests.pipeline.sockets import SocketControl

    group = mx.distributed.init(strict=True, backend="ring")
    rank = group.rank()
    control = SocketControl(socket.socket(fileno=int(descriptor)), f"rank {1 - rank} (here)")
    numerics = Numerics(json.loads(settings).get("numerics", "official"))
    with recorded_reads() as read:
        part, _ = load(folder, numerics=numerics, backend="cpu", pipeline=group)
    seen: dict[str, Any] = {
        "layers": [part.own.start, part.own.stop],
        "read": read,
        "bytes_loaded": part.bytes_loaded,
        "parameters": sorted(part.model) + ["lm_head"] * hasattr(part, "lm_head"),
    }
    if rank == 0:
        model = PipelineModel(part, group, control)
        seen["pipeline"] = model.pipeline
        seen |= getattr(scenarios, scenario)(model, Path(out)) or {}
        model.close()
        seen["sent"] = [message.hex() for message in control.sent]
    else:
        worker, held = PipeWorker(part, group, control), []
        while worker.follow():
            held.append(worker.held)
        seen["held"] = held
    (Path(out) / f"rank{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
