"""What few bits cost nano: three ways to quantize at the same bits, against the release.

    python -m benchmarks.lowbit [--record] [--answers N] [--recipes q4 q3 q2]

`plain` is `mx.quantize`, `search` the converter's search, `weighted` the search with importance
measured on conversations of nano's training. Everything is judged on held-out wordings: the error
of each layer's products (weights' errors weighted by the mean squared inputs of that text), KL
divergence and perplexity, and with --answers how many of the held-out questions are answered.
"""

import argparse
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dsv4_mlx  # before mlx, for its BLAS

# isort: split
import mlx.core as mx
import numpy as np

from benchmarks.record import record
from convert.behaviour import compare_models
from convert.calibrate import calibrate
from convert.importance import Importance, open_importance, rows_of
from convert.lowbit import AffineTensors, quantize
from convert.progress import ProgressDisplay
from convert.quantized import in_order, unpacked
from convert.recipe import Recipe, read_recipe
from convert.texts import read_text
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.loading import load
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.training.data import help as nano_help
from dsv4_mlx.training.data.fact_tasks import fact_turn
from dsv4_mlx.training.evaluation import answers
from dsv4_mlx.unloaded import pack_layers
from dsv4_mlx.weights.checkpoint import Checkpoint, open_checkpoint
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.quantization import PackingKeys
from dsv4_mlx.weights.reading import read_weights

NANO = Path(dsv4_mlx.__file__).parent / "nano"
SEED, CONVERSATIONS, TURNS = 20261124, 60, 5
FIELDS = ("recipe", "method", "layer", "measure", "value")
Rows = list[dict[str, Any]]
Method = Callable[[mx.array, PackingKeys, mx.array | None], AffineTensors]


def plain(values: mx.array, packing: PackingKeys, _: mx.array | None) -> AffineTensors:
    words, scales, offsets = mx.quantize(values.astype(mx.bfloat16), **packing)
    return words, scales, offsets


def search(values: mx.array, packing: PackingKeys, _: mx.array | None) -> AffineTensors:
    return quantize(values, packing["bits"], packing["group_size"])


def weighted(values: mx.array, packing: PackingKeys, importance: mx.array | None) -> AffineTensors:
    return quantize(values, packing["bits"], packing["group_size"], importance)


METHODS: dict[str, Method] = {"plain": plain, "search": search, "weighted": weighted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    parser.add_argument("--answers", type=int, default=0, metavar="N", help="ask N questions too")
    parser.add_argument("--recipes", nargs="+", default=["q4", "q3", "q2"])
    options = parser.parse_args()
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        for recipe in options.recipes:
            for method in METHODS:
                rows += _told(lab.rows(read_recipe(recipe), method, options.answers))
        if options.answers:
            rows += _told(
                [_row("native", "", "", "answers", lab.answered(lab.released, options.answers))]
            )
    if options.record:
        asked = f" --answers {options.answers}" if options.answers else ""
        command = f"python -m benchmarks.lowbit{asked} --recipes {' '.join(options.recipes)}"
        record("lowbit", command, rows, FIELDS)


def _told(rows: Rows) -> Rows:
    for row in rows:
        print(*row.values(), flush=True)
    return rows


def _row(recipe: str, method: str, layer: str, measure: str, value: float) -> dict[str, Any]:
    values = (recipe, method, layer, measure, round(value, 6))
    return dict(zip(FIELDS, values, strict=True))


class Lab:
    """nano, the texts, and what was measured on each."""

    def __init__(self, folder: Path):
        self.source: Checkpoint = open_checkpoint(NANO)
        self.plan: ParameterPlan = plan_parameters(self.source)
        self.released, self.tokenizer = load(NANO)
        training, held_out = folder / "training.jsonl", folder / "held-out.jsonl"
        _write(training, _training_conversations())
        _write(held_out, _held_out_conversations())
        self.importance = self._calibrated(training, folder)
        self.judge = self._calibrated(held_out, folder)
        self.timelines = read_text(held_out, Tokenizer(NANO)).timelines

    def _calibrated(self, text: Path, folder: Path) -> Importance:
        path = folder / f"{text.stem}.safetensors"
        calibrate(NANO, [text], path, ProgressDisplay())
        return open_importance(path, self.source, self.plan)

    def rows(self, recipe: Recipe, method: str, asked: int) -> Rows:
        """Everything about one recipe, quantized in one way."""
        errors: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        model = self._model(recipe, METHODS[method], errors)
        found = compare_models(model, self.released, self.timelines)
        measures = [
            *((layer, "product error", (d / w) ** 0.5) for layer, (d, w) in errors.items()),
            ("", "tokens", found.tokens),
            ("", "kl", found.kl or 0),
            ("", "same choice", found.same_choice or 0),
            ("", "perplexity", found.perplexity),
            ("", "perplexity of the release", found.source_perplexity or 0),
        ]
        if asked:
            measures.append(("", "answers", self.answered(model, asked)))
        return [_row(recipe.name, method, *one) for one in measures]

    def answered(self, model: Model, count: int) -> int:
        """How many of `count` held-out questions, evenly chosen, are answered by the key words."""
        held_out = nano_help.held_out(nano_help.written_facts())
        asked = [held_out[number * len(held_out) // count] for number in range(count)]
        given = answers(model, self.tokenizer, [question for _, question in asked])
        return sum(fact.answered_by(text) for (fact, _), text in zip(asked, given, strict=True))

    def _model(self, recipe: Recipe, method: Method, errors: dict[str, list[float]]) -> Model:
        """nano with the matrices of the recipe quantized, and unpacked again to float32."""
        packed = {one.name: one for one in self.plan.parameters if recipe.packing(one)}
        others = [one for one in self.plan.parameters if one.name not in packed]
        model = Model(self.source.config)
        pack_layers(model, others)
        weights = list(read_weights(self.source, ParameterPlan(tuple(others), ()), mx.float32))
        for name, parameter in packed.items():
            blocks = list(self._blocks(parameter, recipe.packing(parameter), method, errors))
            weights.append((name, mx.concatenate(blocks).reshape(parameter.shape)))
        model.load_weights(weights, strict=True)
        model.join()
        return model

    def _blocks(
        self,
        parameter: Parameter,
        packing: PackingKeys | None,
        method: Method,
        errors: dict[str, list[float]],
    ) -> Iterator[mx.array]:
        assert packing is not None
        importance, judge = self.importance.of(parameter), self.judge.of(parameter)
        for row, values in in_order(parameter):
            known = mx.array(rows_of(importance, parameter, row, len(values)))
            quantized = unpacked(method(values, packing, known), packing)
            right = rows_of(judge, parameter, row, len(values)).astype(np.float64)
            exact, found = np.array(values), np.array(quantized)
            entry = errors[_layer(parameter.module)]
            entry[0] += float((right * (exact - found) ** 2).sum())
            entry[1] += float((right * exact**2).sum())
            yield quantized


def _layer(module: str) -> str:
    """The layer of a matrix, and whether it belongs to the attention or the experts."""
    parts = module.split(".")
    block = "head" if parts[0] == "lm_head" else f"{parts[0]} {parts[1]}"
    if parts[0] == "model":
        block = f"layer {parts[2]}"
    for name in ("self_attn", "shared_experts", "experts"):
        if name in parts:
            return f"{block} {name}"
    return block


def _write(path: Path, conversations: Iterator[list[dict[str, str]]]) -> None:
    lines = (json.dumps({"messages": messages}) for messages in conversations)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _training_conversations() -> Iterator[list[dict[str, str]]]:
    rng = random.Random(SEED)
    deck = nano_help.fact_deck(rng, nano_help.written_facts())
    for _ in range(CONVERSATIONS):
        yield [one for _ in range(TURNS) for one in fact_turn(deck.draw(), rng, "chat")]


def _held_out_conversations() -> Iterator[list[dict[str, str]]]:
    pairs = [
        (question, fact.answer) for fact, question in nano_help.held_out(nano_help.written_facts())
    ]
    random.Random(SEED).shuffle(pairs)
    for start in range(0, len(pairs), TURNS):
        yield _messages(pairs[start : start + TURNS])


def _messages(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for pair in pairs
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]


if __name__ == "__main__":
    main()
