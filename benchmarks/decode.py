"""Decode speed and memory against the other V4 programs, side by side in one run.

    python -m benchmarks.decode [--folder DIR] [--tokens N] [--rounds N] [--engines a,b,...]

Generates once, in DIR, a 4-layer checkpoint with V4-Flash's dimensions, but 16 routed experts and a
vocabulary of 16,384, so that four engines fit into 24 GB (layers of ratio 0, 4, 128, 4; about
1.6 GB, five minutes), starts every engine in a process of its own, prefills
the same 16 tokens and decodes in turn, A B A B: the medians and their ratios hold while the
machine's speed drifts. All MLX engines get the same BLAS. The floor is the bytes of weights one
token must read. A second table prefills 256 tokens of the tiny checkpoint.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import machine, record
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint

CONFIG = FLASH.replace(
    vocab_size=16384,
    num_hidden_layers=4,
    n_routed_experts=16,
    compress_ratios=(0, 4, 128, 4),
    num_nextn_predict_layers=0,
)
# TINY without ragged blocks, which mlx-vlm does not read.
EVEN_TINY = TINY.replace(q_lora_rank=128, o_lora_rank=128, moe_intermediate_size=128)
ENGINES = ("ours", "mlx-vlm-float32", "mlx-vlm-bfloat16", "transformers-bfloat16")
FIELDS = ("floor_bytes", "measure", "engine", "median_s", "min_s", "max_s", "times_ours")
FIELDS += ("tokens_per_s", "peak_gib", "load_s")


class Worker:
    """One engine's process."""

    def __init__(self, engine: str, folder: Path):
        command = [sys.executable, "-m", "benchmarks.decode_worker", engine, str(folder)]
        self.engine = engine
        self._process = subprocess.Popen(
            [*command, "--fast-blas"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.load_s = self._read()["load_s"]
        self.seconds: list[float] = []
        self.peak_bytes = 0

    def ask(self, **order: int) -> list[float]:
        """Seconds of one order."""
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer = self._read()
        self.peak_bytes = answer["peak_bytes"]
        return answer["seconds"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.engine} ended before it answered; its message is above")


def decode(folder: Path, engines: list[str], tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of the decode table."""
    workers = [Worker(engine, folder) for engine in engines]
    for worker in workers:
        worker.ask(prefill=16)
        worker.ask(decode=1)
    for _ in range(rounds):
        for worker in workers:
            worker.seconds += worker.ask(decode=tokens)
    for worker in workers:
        worker.close()
    first = statistics.median(workers[0].seconds)
    return [
        {
            "measure": "decode",
            "engine": w.engine,
            "median_s": round(statistics.median(w.seconds), 4),
            "min_s": round(min(w.seconds), 4),
            "max_s": round(max(w.seconds), 4),
            "times_ours": round(statistics.median(w.seconds) / first, 2),
            "peak_gib": round(w.peak_bytes / 2**30, 2),
            "load_s": round(w.load_s, 1),
        }
        for w in workers
    ]


def prefill_tiny(engines: list[str], length: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of the prefill table: the tiny checkpoint, whose cost is launches, not weights."""
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_checkpoint(folder, EVEN_TINY)
        workers = [Worker(engine, Path(folder)) for engine in engines]
        for worker in workers:
            worker.ask(prefill=length)
        for _ in range(rounds):
            for worker in workers:
                worker.seconds += worker.ask(prefill=length)
        for worker in workers:
            worker.close()
    return [
        {
            "measure": f"prefill {length} tokens of tiny",
            "engine": w.engine,
            "median_s": round(statistics.median(w.seconds), 4),
            "tokens_per_s": round(length / statistics.median(w.seconds)),
            "peak_gib": round(w.peak_bytes / 2**30, 2),
        }
        for w in workers
    ]


def main() -> None:
    """Run both tables, print them, append them to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where the checkpoint is or will be")
    parser.add_argument("--tokens", type=int, default=4, help="tokens per turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each engine")
    parser.add_argument("--engines", default=",".join(ENGINES))
    options = parser.parse_args()
    engines = options.engines.split(",")
    folder = options.folder or Path(tempfile.gettempdir()) / "dsv4-flash-4-layers"
    if not (folder / "config.json").exists():
        print(f"writing the checkpoint to {folder}", file=sys.stderr)
        write_tiny_checkpoint(folder, CONFIG, shards=4, tokenizer=False)
    floor = Costs(CONFIG).bytes_per_token()
    print(f"floor: {floor / 1e9:.3f} GB of weights per token; {machine()}")
    rows = decode(folder, engines, options.tokens, options.rounds)
    rows += prefill_tiny(engines, 256, options.rounds)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    command = f"python -m benchmarks.decode --tokens {options.tokens} --rounds {options.rounds}"
    record("decode", command, [{"floor_bytes": floor} | row for row in rows], FIELDS)


if __name__ == "__main__":
    main()
