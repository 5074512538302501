"""`python -m dsv4_mlx.training.nano OUT`: train the embedded model and write its folder.

Hours on a CPU. Stopped by Ctrl-C or killed, the same command goes on where it was. With
`--evaluate` the model in OUT is asked every held-out question instead.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dsv4_mlx.training.nano", description="Train the embedded model, nano."
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write, or to evaluate")
    parser.add_argument("--steps", type=int, help="updates (default: those of the recipe)")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed is another model (default 0)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", default=1,
        help="processes that share each step, one core each; a run keeps its number (default 1)",
    )  # fmt: skip
    parser.add_argument("--evaluate", action="store_true", help="ask the held-out questions")
    options = parser.parse_args(arguments)
    if options.workers > 1:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    # Before anything imports mlx: with the BLAS it brings on Linux this would take days.
    from dsv4_mlx.blas import ensure_fast_blas

    ensure_fast_blas()
    from dsv4_mlx.errors import Dsv4Error

    try:
        if options.evaluate:
            evaluate(options.out)
        elif not pretrain(options.out, options.seed, options.steps, options.workers):
            print("stopped; the same command goes on", file=sys.stderr)
    except Dsv4Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def pretrain(folder: Path, seed: int, steps: int | None, workers: int = 1) -> bool:
    """Run the base stage with a display of how it goes on; False where it was stopped."""
    from dsv4_mlx.training import native
    from dsv4_mlx.training.nano_recipe import NanoRecipe, train
    from dsv4_mlx.training.pages import keep_pages
    from dsv4_mlx.training.progress import RunProgress

    if (line := native.notice()) is not None:
        print(line, file=sys.stderr)
    keep_pages()
    recipe = NanoRecipe(seed=seed)
    if steps is not None:
        recipe = recipe.shortened(steps)
    with RunProgress(recipe.steps) as progress:
        return train(folder, recipe, progress=progress, workers=workers)


def evaluate(folder: Path) -> None:
    """Print what was answered wrongly and how many were right, in both modes."""
    from dsv4_mlx.chat.effort import ThinkingMode
    from dsv4_mlx.loading import load
    from dsv4_mlx.training.evaluation import judged

    model, tokenizer = load(folder)
    modes: tuple[ThinkingMode, ...] = ("chat", "thinking")
    for mode in modes:
        results = list(judged(model, tokenizer, mode))
        for right, question, given in results:
            if not right:
                print(f"{mode}: {question}\n    {given}")
        print(f"{mode}: {sum(right for right, _, _ in results)} of {len(results)} answered")


if __name__ == "__main__":
    sys.exit(main())
