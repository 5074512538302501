"""One checkout's training, a process that makes steps when told; `benchmarks.training` starts it.

    python training_worker.py LENGTH TOKENS INDEXING [recompute] [workers=N]

Run in a checkout, whose packages it imports, earlier ones too. Reads `step` lines, answers each
with one of JSON: CPU seconds of the processes, wall seconds, peak bytes of arrays; `error` where it
fails.
"""

import json
import os
import sys
import time


def main() -> None:
    """Prepare nano and make a step per line of stdin."""
    length, tokens, indexing = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    sys.path.insert(0, os.getcwd())
    from dsv4_mlx.blas import ensure_fast_blas

    ensure_fast_blas()
    try:
        from dsv4_mlx.training.pages import keep_pages

        keep_pages()
    except ImportError:  # an earlier checkout
        pass
    import mlx.core as mx
    import numpy as np

    from dsv4_mlx.training import nano_recipe

    recipe = getattr(nano_recipe, "NanoRecipe", None) or vars(nano_recipe)["Recipe"]
    options = {"recompute": True} if "recompute" in sys.argv[4:] else {}
    workers = [int(word.partition("=")[2]) for word in sys.argv[4:] if word.startswith("workers=")]
    prepared = nano_recipe._prepared(recipe(**options), nano_recipe.NANO, *workers)
    trainer, objective, _ = prepared
    if hasattr(objective, "set_indexing"):
        objective.set_indexing(indexing)

    class Batch:
        def __init__(self, seed: int):
            shape = (max(1, tokens // length), length + 2)
            rng = np.random.default_rng(seed)
            self.tokens = rng.integers(0, nano_recipe.NANO.vocab_size, shape).astype(np.int32)
            self.weights = np.ones(shape, np.float32)

    def used() -> float:
        return getattr(trainer, "cpu_seconds", 0.0) or time.process_time()

    for number, _ in enumerate(sys.stdin):
        cpu, wall = used(), time.perf_counter()
        try:
            loss, _extras = trainer.step(Batch(number))
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
            return
        answer = {"cpu_s": used() - cpu, "wall_s": time.perf_counter() - wall}
        print(json.dumps(answer | {"loss": loss, "peak_bytes": mx.get_peak_memory()}), flush=True)


if __name__ == "__main__":
    main()
