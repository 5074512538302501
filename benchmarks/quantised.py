"""What FP4 and FP8 weights lose against the float32 masters they were rounded from, task by task.

    python -m benchmarks.quantised FOLDER --masters STATE.safetensors

FOLDER is an official folder of a model that was trained here, STATE.safetensors the trainer's state
it was written from. Both answer the same held-out tasks greedily, and on the lessons of the same
tasks drafts of the multi-token predictor are counted. Without masters FOLDER is measured alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.record import earlier, record
from dsv4_mlx.errors import CheckpointError, Dsv4Error

if TYPE_CHECKING:
    from dsv4_mlx.model.v4 import Model

NAMES = {"chat": "Non-Think", "thinking": "Think High"}
FIELDS = ("folder", "weights", "kind", "mode", "tasks", "right", "drafted", "accepted")


def with_masters(model: Model, file: Path) -> Model:
    """A model like `model`, numerics and all, whose weights are the masters of a trainer's state.

    What no gradient moves, tables of experts by token, comes from `model`. CheckpointError for a
    state that does not round to the weights of `model`.
    """
    import mlx.core as mx
    from mlx.utils import tree_unflatten

    from dsv4_mlx.model.v4 import Model
    from dsv4_mlx.training.starting_point import dense_parameters
    from dsv4_mlx.training.stored_weights import rounded, stored_dtypes

    arrays = cast(dict[str, Any], mx.load(str(file)))
    masters = {
        name.partition("/")[2]: value
        for name, value in arrays.items()
        if name.startswith(("parameters/", "buffers/"))
    }
    stored, dtypes = dense_parameters(model), stored_dtypes(model.config)
    for name, value in rounded({n: v for n, v in masters.items() if n in dtypes}, dtypes).items():
        kept = stored.get(name)
        if kept is None or kept.shape != value.shape or not mx.array_equal(kept, value).item():
            raise CheckpointError(
                f"expected masters that round to the weights of the folder but {name} differs; "
                f"take the state that was saved with the folder, not {file.name}."
            )
    fresh = Model(model.config, numerics=model.numerics, backend="cpu")
    fresh.update(tree_unflatten(list((stored | masters).items())))
    fresh.join()
    return fresh


def rows(
    folder: Path, masters: Path | None, count: int, kinds: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """A row for each kind, mode and form of the weights; recall is asked at each of its lengths."""
    from dsv4_mlx.loading import load
    from dsv4_mlx.training.acceptance import acceptance
    from dsv4_mlx.training.data.recall import LENGTHS
    from dsv4_mlx.training.data.tasks import MAKERS
    from dsv4_mlx.training.evaluate import MODES, held_out_tasks
    from dsv4_mlx.training.evaluation import outcomes

    model, tokenizer = load(folder, backend="cpu")
    models = {"stored": model}
    if masters is not None:
        models["masters"] = with_masters(model, masters)
    options = argparse.Namespace(count=count, seed=0, lengths=list(LENGTHS))
    for kind in (kind for kind in MAKERS if not kinds or kind in kinds):
        for mode in MODES:
            asked = held_out_tasks(kind, mode, options)
            for weights, one in models.items():
                accepted, drafted = acceptance(one, tokenizer, asked)
                yield {
                    "folder": folder.name,
                    "weights": weights,
                    "kind": kind,
                    "mode": mode,
                    "tasks": len(asked),
                    "right": sum(found.right for found in outcomes(one, tokenizer, asked)),
                    "drafted": drafted,
                    "accepted": accepted,
                }


def table() -> str:
    """Right answers with stored weights and with masters, as a table of Markdown.

    The latest row of each kind and mode counts.
    """
    found: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in earlier("quantised"):
        found.setdefault((row["kind"], row["mode"]), {})[row["weights"]] = row
    lines = [
        "| tasks | asked | masters | stored | lost, points | drafts, masters | stored |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for (kind, mode), both in found.items():
        if both.keys() == {"masters", "stored"}:
            masters, stored = both["masters"], both["stored"]
            asked = int(stored["tasks"])
            lost = 100 * (int(masters["right"]) - int(stored["right"])) / asked
            drafts = (f"{int(r['accepted'])} of {int(r['drafted'])}" for r in (masters, stored))
            cells = (f"{kind}, {NAMES[mode]}", asked, masters["right"], stored["right"])
            lines.append("| " + " | ".join(map(str, (*cells, f"{lost:.1f}", *drafts))) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No model with its masters was measured yet."


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, record; 1 after a mistake."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a model that was trained here")
    parser.add_argument("--masters", type=Path, help="the trainer's state it was written from")
    parser.add_argument("--count", type=int, default=50, help="tasks of each kind and mode")
    parser.add_argument("--kinds", default="", help="kinds of tasks, by commas (default: all)")
    options = parser.parse_args(arguments)
    from dsv4_mlx.blas import ensure_fast_blas

    ensure_fast_blas()
    command = f"python -m benchmarks.quantised FOLDER --count {options.count}"
    command += f" --kinds {options.kinds}" * bool(options.kinds)
    command += " --masters STATE" * (options.masters is not None)
    try:
        kinds = [kind for kind in options.kinds.split(",") if kind]
        for row in rows(options.folder, options.masters, options.count, kinds):
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            record("quantised", command, [row], FIELDS)
    except Dsv4Error as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
