"""How differently a converted model speaks: perplexity of a text, and distance to the source."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from dsv4_mlx.errors import UsageError
from dsv4_mlx.loading import load

if TYPE_CHECKING:
    from dsv4_mlx.model import Model

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


def compare(folder: Path, source: Path | None, text: Path) -> Behaviour:
    """Run the text through one or both models; both are in memory at once."""
    model, tokenizer = load(folder)
    try:
        tokens = tokenizer.encode(text.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{text} is no UTF-8 text; give another file.") from error
    if len(tokens) < 2:
        raise UsageError(
            f"{text} has {len(tokens)} tokens, expected 2 or more; give a longer text."
        )
    released = None if source is None else load(source)[0]
    ours, theirs = model.make_cache(), released.make_cache() if released else []
    sums = [0.0, 0.0, 0.0, 0.0]
    for start in range(0, len(tokens) - 1, _CHUNK_TOKENS):
        part = mx.array([tokens[start : start + _CHUNK_TOKENS]])
        answers = mx.array(tokens[start + 1 : start + 1 + _CHUNK_TOKENS])
        mine = _log_probabilities(model, part, ours)[: answers.size]
        sums[0] -= _at(mine, answers)
        if released:
            right = _log_probabilities(released, part, theirs)[: answers.size]
            sums[1] -= _at(right, answers)
            sums[2] += float(mx.sum(mx.exp(right) * (right - mine)).item())  # type: ignore[arg-type]
            same = mx.argmax(right, axis=-1) == mx.argmax(mine, axis=-1)
            sums[3] += float(mx.sum(same).item())  # type: ignore[arg-type]
    count = len(tokens) - 1
    perplexity, other = (float(mx.exp(mx.array(one / count)).item()) for one in sums[:2])  # type: ignore[arg-type]
    if released is None:
        return Behaviour(count, perplexity)
    return Behaviour(count, perplexity, sums[2] / count, sums[3] / count, other)


def _log_probabilities(model: "Model", tokens: mx.array, cache: list) -> mx.array:  # type: ignore[type-arg]
    """float32 [S, V] after each of the tokens [1, S]."""
    logits = model(tokens, cache)[0].astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _at(logs: mx.array, tokens: mx.array) -> float:
    return float(mx.take_along_axis(logs, tokens[:, None], axis=-1).sum().item())  # type: ignore[arg-type]
