"""How differently a converted model speaks: perplexity of a text, and distance to the source."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from convert.texts import Text, read_text

if TYPE_CHECKING:
    from dsv4_mlx.model.v4 import Model

_CHUNK_TOKENS = 512


@dataclass(frozen=True)
class Behaviour:
    """Perplexity of the text; with a source also the mean KL divergence from it in nats per token
    and the share of tokens at which both would say the same."""

    tokens: int
    perplexity: float
    kl: float | None = None
    same_choice: float | None = None
    source_perplexity: float | None = None

    def sentence(self) -> str:
        """For people."""
        text = f"behaviour: perplexity {self.perplexity:.4f} over {self.tokens} tokens"
        if self.kl is None:
            return text
        return (
            f"{text}, {self.source_perplexity:.4f} of the source; KL divergence {self.kl:.6f} nats "
            f"per token, the same choice at {self.same_choice:.1%} of the tokens"
        )


def compare(folder: Path, source: Path | None, path: Path) -> tuple[Text, Behaviour]:
    """Run the text through one or both models; both are in memory at once."""
    from dsv4_mlx.loading import load

    model, tokenizer = load(folder)
    text = read_text(path, tokenizer)
    released = None if source is None else load(source)[0]
    return text, compare_models(model, released, text.timelines)


def compare_models(
    model: "Model", released: "Model | None", timelines: Iterable[list[int]]
) -> Behaviour:
    """The same of loaded models; every token but the first of a timeline counts."""
    sums = _Sums()
    for tokens in timelines:
        ours, theirs = model.make_cache(), released.make_cache() if released else []
        for start in range(0, len(tokens) - 1, _CHUNK_TOKENS):
            part = mx.array([tokens[start : start + _CHUNK_TOKENS]])
            answers = mx.array(tokens[start + 1 : start + 1 + _CHUNK_TOKENS])
            mine = _log_probabilities(model, part, ours)[: answers.size]
            right = _log_probabilities(released, part, theirs) if released else None
            sums.add(mine, None if right is None else right[: answers.size], answers)
    return sums.behaviour(released is not None)


class _Sums:
    """What is added up over chunks."""

    def __init__(self) -> None:
        self.count = 0
        self.surprise = self.source_surprise = self.kl = self.same = 0.0

    def add(self, mine: mx.array, right: mx.array | None, answers: mx.array) -> None:
        """Log probabilities [S, V] of both models, and the tokens that came, [S]."""
        self.count += answers.size
        self.surprise -= _at(mine, answers)
        if right is None:
            return
        self.source_surprise -= _at(right, answers)
        self.kl += _sum(mx.exp(right) * (right - mine))
        self.same += _sum(mx.argmax(right, axis=-1) == mx.argmax(mine, axis=-1))

    def behaviour(self, compared: bool) -> Behaviour:
        perplexity = exp(self.surprise / self.count)
        if not compared:
            return Behaviour(self.count, perplexity)
        kl, same = self.kl / self.count, self.same / self.count
        return Behaviour(self.count, perplexity, kl, same, exp(self.source_surprise / self.count))


def _log_probabilities(model: "Model", tokens: mx.array, cache: list) -> mx.array:  # type: ignore[type-arg]
    """float32 [S, V] after each of the tokens [1, S]."""
    logits = model(tokens, cache)[0].astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _at(logs: mx.array, tokens: mx.array) -> float:
    return _sum(mx.take_along_axis(logs, tokens[:, None], axis=-1))


def _sum(array: mx.array) -> float:
    return float(array.sum().item())  # type: ignore[arg-type]
