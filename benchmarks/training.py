"""Training speed: nano's tokens per CPU second, beside an earlier checkout's, in turn in one run.

    python -m benchmarks.training [--before DIR] [--lengths 256,512,...] [--tokens N] [--rounds N]
                                  [--indexing off|dense|sparse] [--recompute] [--workers N]

Each version trains nano in a process of its own, same seed and random tokens, one whole step
(forward, backward, Muon and AdamW, rounding of the weights) at a time, A B A B, after one that is
not counted. CPU seconds are of all threads of the process, and of all workers; the peak is that of
one. With `--workers` this checkout has a third turn with so many; wall seconds, and the note that
compares them, tell something on a machine with nothing else to do. The rows go to
results/training.csv.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import machine, record

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("training_worker.py")
FIELDS = ("version", "length", "tokens", "indexing", "recompute", "tokens_per_cpu_s", "cpu_s")
FIELDS += ("wall_s", "peak_gib", "times_before", "note")


class Trainee:
    """One checkout's process at one length."""

    def __init__(self, version: str, checkout: Path, arguments: list[str]):
        self.version, self.answers, self.error = version, list[dict[str, Any]](), ""
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env=os.environ | {"PYTHONPATH": str(checkout)},
        )

    def step(self) -> None:
        """Have it make a step, unless an earlier one failed."""
        if self.error:
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        print("step", file=self._process.stdin, flush=True)
        lines = (line for line in self._process.stdout if line.startswith("{"))
        answer = json.loads(next(lines, '{"error": "ended"}'))
        self.error = answer.get("error", "")
        self.answers.append(answer)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def compared(
    versions: dict[str, Path],
    length: int,
    tokens: int,
    rounds: int,
    indexing: str,
    more: list[str],
    workers: int = 1,
) -> list[dict[str, Any]]:
    """A row per version at one length, and one for the last version with several workers."""
    arguments = [str(length), str(tokens), indexing, *more]
    trainees = [Trainee(name, path, arguments) for name, path in versions.items()]
    if workers > 1:
        name, path = list(versions.items())[-1]
        given = [*arguments, f"workers={workers}"]
        trainees.append(Trainee(f"{name}, {workers} workers", path, given))
    for _ in range(1 + rounds):
        for trainee in trainees:
            trainee.step()
    for trainee in trainees:
        trainee.close()
    made = max(1, tokens // length) * length
    common = {"length": length, "tokens": made, "indexing": indexing, "recompute": bool(more)}
    rows = [{"version": t.version, **common, **_figures(t, made)} for t in trainees]
    first = rows[0].get("cpu_s")
    for row in rows:
        if first and "cpu_s" in row:
            row["times_before"] = round(first / row["cpu_s"], 2)
    if workers > 1 and "wall_s" in rows[-2] and "wall_s" in rows[-1]:
        ratio = rows[-2]["wall_s"] / rows[-1]["wall_s"]
        rows[-1]["note"] = f"{ratio:.2f} times as fast by the wall as one worker"
    return rows


def _figures(trainee: Trainee, tokens: int) -> dict[str, Any]:
    if trainee.error:
        return {"note": trainee.error.splitlines()[0][:80]}
    counted = trainee.answers[1:]
    cpu = statistics.median(answer["cpu_s"] for answer in counted)
    return {
        "tokens_per_cpu_s": round(tokens / cpu),
        "cpu_s": round(cpu, 2),
        "wall_s": round(statistics.median(answer["wall_s"] for answer in counted), 2),
        "peak_gib": round(counted[-1]["peak_bytes"] / 2**30, 2),
    }


def main() -> None:
    """Measure every length, print the rows, append them to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--lengths", default="256", help="tokens of a sequence, several by commas")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a step")
    parser.add_argument("--rounds", type=int, default=3, help="counted steps of each")
    parser.add_argument("--indexing", default="off", choices=("off", "dense", "sparse"))
    parser.add_argument("--recompute", action="store_true", help="layers made again backward")
    parser.add_argument("--workers", type=int, default=1, help="the same with so many processes")
    options = parser.parse_args()
    versions = {"before": options.before.resolve()} if options.before else {}
    versions["now"] = ROOT
    more = ["recompute"] if options.recompute else []
    rows = []
    print(machine())
    for length in map(int, options.lengths.split(",")):
        sizes = (length, options.tokens, options.rounds, options.indexing, more, options.workers)
        found = compared(versions, *sizes)
        for row in found:
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        rows += found
    given = ["DIR" if word == str(options.before) else word for word in sys.argv[1:]]
    record("training", " ".join(["python -m benchmarks.training", *given]), rows, FIELDS)


if __name__ == "__main__":
    main()
