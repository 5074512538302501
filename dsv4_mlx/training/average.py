"""`python -m dsv4_mlx.training.average OUT RUN RUN …`: the mean of what runs were trained to.

Runs of `dsv4_mlx.training.post` that went on from one another stand close together, and the mean of
their float32 masters is often a little better than each (Wortsman et al., arXiv 2203.05482). OUT is
a folder in the official format, rounded to FP4 and FP8 once, after the mean.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsv4_mlx.training.muon import Parameters


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dsv4_mlx.training.average",
        description="Write the mean of the models of some runs.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder that is not there yet")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folders of runs")
    options = parser.parse_args(arguments)

    # Before anything imports mlx: with the BLAS it brings on Linux this would take long.
    from dsv4_mlx.blas import ensure_fast_blas

    ensure_fast_blas()
    from dsv4_mlx.errors import Dsv4Error

    try:
        average(options.out, options.runs)
    except Dsv4Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def average(out: Path, runs: Sequence[Path]) -> None:
    """Write the mean of the masters of `runs` to `out`, which must not exist.

    Tables of ids and the tokenizer are those of the last run, which all must share. UsageError for
    runs of models of other shapes, and for a folder that is there.
    """
    import mlx.core as mx

    from dsv4_mlx.errors import UsageError
    from dsv4_mlx.training.stage import SHARD_BYTES, TOKENIZER_FILES
    from dsv4_mlx.training.starting_point import StartingPoint
    from dsv4_mlx.training.stored_weights import write_release

    if out.exists():
        raise UsageError(f"expected a folder that is not there yet but {out} is; name another one.")
    every = [masters(run) for run in runs]
    point = StartingPoint.of(runs[-1] / "model")
    texts = [(run / "model" / "tokenizer.json").read_bytes() for run in runs]
    for run, one, text in zip(runs, every, texts, strict=True):
        shapes = {name: value.shape for name, value in one.items()}
        if shapes != {name: value.shape for name, value in every[-1].items()} or text != texts[-1]:
            raise UsageError(
                f"expected runs of one kind of model and tokenizer but {run} is another than "
                f"{runs[-1]}; average runs that began from one model."
            )
    mean = {name: mx.mean(mx.stack([one[name] for one in every]), axis=0) for name in every[-1]}
    write_release(out, point.config, point.fixed | mean, shard_bytes=SHARD_BYTES)
    for name in TOKENIZER_FILES:
        if (source := point.folder / name).exists():
            shutil.copyfile(source, out / name)


def masters(run: Path) -> Parameters:
    """What a run trains and moves, float32, as of its last save; UsageError where there is none."""
    import mlx.core as mx

    from dsv4_mlx.errors import UsageError

    file = run / "state.safetensors"
    if not file.exists() or not (run / "model").is_dir():
        raise UsageError(
            f"expected a run of dsv4_mlx.training.post in {run} but its model or state is missing; "
            "name the folder that the stage was given."
        )
    state = mx.load(str(file))
    assert isinstance(state, dict)
    kept = ("parameters/", "buffers/")
    return {name.partition("/")[2]: state[name] for name in state if name.startswith(kept)}


if __name__ == "__main__":
    sys.exit(main())
