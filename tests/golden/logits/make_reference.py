"""Writes transformers' logits of the compared checkpoints, each <name>.npz beside this script.

Run from the repository's root with the `parity` extra installed, optionally with checkpoint names;
see README.md beside this file.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.model.running import (
    LENGTHS,
    TINY_CONFIGS,
    checkpoint_folder,
    weights_digest,
)
from tests.oracle import v4_numpy
from tests.parity.transformers_model import Transformers, versions

ROWS = (
    *(0, 2, 3, 4, 7, 8, 31, 32, 63, 64, 100, 126, 127, 128, 129),
    *(131, 200, 255, 256, 299, 511, 512, 516, 767, 1023, 1024, 1279, 1280, 1499),
)
SEEDS = 10
KEPT = 512  # columns per row: enough to notice any difference, small enough to be stored


def smallest_margin(config: dict, weights: dict[str, np.ndarray], tokens: np.ndarray) -> float:
    """How close the float64 oracle's closest choice of an expert or an entry was."""
    layers = v4_numpy.forward(config, weights, tokens, official=False).layers
    margins = [layer.expert_margins for layer in layers]
    margins += [layer.index_margins for layer in layers if layer.index_margins is not None]
    return min(float(m.min()) for m in margins)


def settled_prompt(config: dict, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Of a few random prompts, the one whose closest choice is the least close: [1500]."""
    best, widest = np.empty(0), 0.0
    for seed in range(SEEDS):
        tokens = np.random.default_rng(seed).integers(0, config["vocab_size"], max(LENGTHS))
        margin = smallest_margin(config, weights, tokens)
        print(f"seed {seed}: smallest margin {margin:.1e}", flush=True)
        if margin > widest:
            best, widest = tokens, margin
    return best


def sure_rows(model: Transformers, tokens: np.ndarray, precise: np.ndarray) -> np.ndarray:
    """Those of ROWS on which transformers' float32 and float64 agree to 1e-4."""
    unsure = np.abs(model.logits(tokens) - precise).max(axis=1) > 1e-4
    print(f"{unsure.sum()} of {len(tokens)} rows left out as near-ties")
    if unsure.mean() > 0.02:
        sys.exit("expected at most 2 % of the rows to hang on a rounding; try more seeds")
    return np.array([row for row in ROWS if not unsure[row]], np.int32)


def record(name: str, parent: Path) -> None:
    """Write `name`.npz."""
    folder = checkpoint_folder(name, parent)
    model = Transformers(folder)
    tokens = settled_prompt(model.config, v4_numpy.dequantize_checkpoint(folder))
    logits = model.precise_logits(tokens)
    kept = sure_rows(model, tokens, logits)
    rows = logits[kept]
    # The likeliest token and the normaliser cover the columns that are not kept.
    np.savez_compressed(
        Path(__file__).with_name(f"{name}.npz"),
        made_with=np.array(versions()),
        weights=np.array(weights_digest(folder)),
        tokens=tokens.astype(np.int32),
        rows=kept,
        logits=rows[:, :KEPT],
        best=rows.argmax(axis=1).astype(np.int32),
        normaliser=np.logaddexp.reduce(rows.astype(np.float64), axis=1).astype(np.float32),
    )
    print(f"{name}: {len(kept)} rows of {len(tokens)} tokens, {versions()}")


if __name__ == "__main__":
    present = [*TINY_CONFIGS, "nano"]
    assert max(ROWS) < max(LENGTHS)
    with tempfile.TemporaryDirectory() as parent:
        for name in sys.argv[1:] or present:
            record(name, Path(parent))
