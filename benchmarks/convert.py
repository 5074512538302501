"""`python -m benchmarks.convert`: native conversion beside `cp -r SRC DST && sync -f DST`.

Synthetic checkpoints with the tensor shapes of V4-Flash (fewer layers, experts and tokens) are
copied and converted in turn in one run: a copy, then the conversion with all its hashes (`whole`),
without the SHA-256 of the source's files (`no source hash`), and without that of the written
tensors too (`no hash`). Only the first is what a user gets; the others list the hashing apart.
Memory is what the converter's process holds itself, anonymous and shared, sampled every 10 ms
(Linux). A row is the median over the rounds; its share is the median of copy time by conversion
time within a round.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.record import record
from dsv4_mlx.files.safetensors_writing import TensorPlan, write_file
from dsv4_mlx.release.config import FLASH, DeepseekV4Config
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.release.tensors import TensorSpec, checkpoint_tensors
from dsv4_mlx.weights.checkpoint import INDEX_FILE

# Experts and tokens fewer than Flash's, every matrix of its shape: about 1.7 and 6 GB.
SIZES = {
    "1.7GB": FLASH.replace(
        num_hidden_layers=2, compress_ratios=(4, 128), n_routed_experts=48, vocab_size=16_384,
        num_nextn_predict_layers=0, num_hash_layers=1,
    ),
    "6GB": FLASH.replace(
        num_hidden_layers=5, compress_ratios=(0, 4, 128, 4, 128), n_routed_experts=80,
        vocab_size=16_384, num_nextn_predict_layers=0, num_hash_layers=1,
    ),
}  # fmt: skip
_SHARD_BYTES = 3 << 30
_SAMPLE_S = 0.01
_UNUSUAL = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
FIELDS = (
    "size", "bytes", "rounds", "hashing", "load", "copy_s", "convert_s", "copy_gb_s",
    "convert_gb_s", "share_of_copy", "cpu_s", "peak_mib",
)  # fmt: skip

# The command, and what replaces its hashes to see what they cost.
_WHOLE = "import sys; from convert.app import main; sys.exit(main(sys.argv[1:]))"
_NO_SOURCE_HASH = "import convert.sources; convert.sources.sha256_of = lambda *_: '0' * 64; "
_NO_HASH = """
import types, convert.shards
class Nothing:
    def update(self, data): pass
    def hexdigest(self): return "0" * 64
convert.shards.xxhash = types.SimpleNamespace(xxh3_128=Nothing)
"""
HASHING = {
    "whole": _WHOLE,
    "no source hash": _NO_SOURCE_HASH + _WHOLE,
    "no hash": _NO_SOURCE_HASH + _NO_HASH + _WHOLE,
}


def write_synthetic(folder: Path, config: DeepseekV4Config) -> int:
    """A whole checkpoint of plausible random bits; returns its bytes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    groups: list[list[TensorSpec]] = [[]]
    for spec in checkpoint_tensors(config):
        if sum(one.nbytes for one in groups[-1]) > _SHARD_BYTES:
            groups.append([])
        groups[-1].append(spec)
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        write_file(folder / file, [_tensor(spec, config, rng) for spec in group])
        weight_map |= {spec.name: file for spec in group}
    total = sum(spec.nbytes for group in groups for spec in group)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(keys_of(config)))
    return total


def _tensor(spec: TensorSpec, config: DeepseekV4Config, rng: np.random.Generator) -> TensorPlan:
    def chunks() -> Iterator[bytes]:
        if spec.dtype == "I64":
            yield rng.integers(0, config.n_routed_experts, spec.shape).tobytes()
        elif spec.dtype == "F32":
            yield rng.standard_normal(spec.shape, np.float32).tobytes()
        elif spec.dtype == "F8_E8M0":
            yield rng.integers(110, 125, spec.shape, np.uint8).tobytes()
        else:
            # Bits that make no NaN in FP8 and no infinity in BF16.
            yield (rng.integers(0, 256, spec.nbytes, np.uint8) & 0xBB).tobytes()

    return TensorPlan(spec.name, spec.dtype, spec.shape, chunks)


def copy_seconds(source: Path, target: Path) -> float:
    """`cp -r SRC DST && sync -f DST`."""
    start = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", "-f", target], check=True)
    return time.perf_counter() - start


class Taken(NamedTuple):
    """One conversion: seconds on the clock and of processors, peak bytes of its own memory."""

    seconds: float
    cpu_seconds: float
    peak: int


def convert(source: Path, target: Path, program: str) -> Taken:
    """What one conversion by `program` takes in a process of its own, its start included."""
    # As a person's Python does: compiled modules are kept.
    environment = {key: value for key, value in os.environ.items() if key not in _UNUSUAL}
    command = [sys.executable, "-c", program, str(source), str(target)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(running, peak))
    watcher.start()
    status = running.wait()
    took = time.perf_counter() - start
    watcher.join()
    if status:
        raise SystemExit(f"the conversion ended with status {status}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(took, cpu, peak[0])


def _watch(running: "subprocess.Popen[bytes]", peak: list[int]) -> None:
    status = Path(f"/proc/{running.pid}/status")
    while running.poll() is None and status.exists():
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        kib = sum(
            int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))
        )
        peak[0] = max(peak[0], kib * 1024)
        time.sleep(_SAMPLE_S)


def measure(size: str, config: DeepseekV4Config, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """A row for each of HASHING."""
    source = folder / "source"
    nbytes = write_synthetic(source, config)
    subprocess.run(["sync", "-f", source], check=True)
    copies: list[float] = []
    taken: dict[str, list[Taken]] = {hashing: [] for hashing in HASHING}
    load = os.getloadavg()[0]
    for _ in range(rounds):
        copies.append(copy_seconds(source, folder / "copy"))
        shutil.rmtree(folder / "copy")
        for hashing, program in HASHING.items():
            taken[hashing].append(convert(source, folder / "converted", program))
            shutil.rmtree(folder / "converted")
    shutil.rmtree(source)
    common = {"size": size, "bytes": nbytes, "rounds": rounds, "load": round(load, 1)}
    return [common | _row(nbytes, hashing, copies, taken[hashing]) for hashing in HASHING]


def _row(nbytes: int, hashing: str, copies: list[float], taken: list[Taken]) -> dict[str, Any]:
    copy, conversion = statistics.median(copies), statistics.median(one.seconds for one in taken)
    shares = [copied / one.seconds for copied, one in zip(copies, taken, strict=True)]
    return {
        "hashing": hashing,
        "copy_s": round(copy, 2),
        "convert_s": round(conversion, 2),
        "copy_gb_s": round(nbytes / copy / 1e9, 3),
        "convert_gb_s": round(nbytes / conversion / 1e9, 3),
        "share_of_copy": round(statistics.median(shares), 2),
        "cpu_s": round(statistics.median(one.cpu_seconds for one in taken), 2),
        "peak_mib": round(max(one.peak for one in taken) / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; needs three times the size")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for size in options.sizes:
            measured = measure(size, SIZES[size], Path(folder), options.rounds)
            print(*measured, sep="\n", flush=True)
            rows += measured
    if options.no_record:
        return
    sizes = " ".join(options.sizes)
    record(
        "convert",
        f"python -m benchmarks.convert --sizes {sizes} --rounds {options.rounds}",
        rows,
        FIELDS,
    )


if __name__ == "__main__":
    main()
