"""What draws of an answer that is held give."""

from collections import Counter

import mlx.core as mx
import numpy as np

from dsv4_mlx.engine.generation import make_sampler
from dsv4_mlx.serving.constraint import AnswerConstraint


def require_shares(held: AnswerConstraint) -> list[int]:
    """Of four tokens of which two fit, each is drawn as often as its share of these two; the two
    lowest of 2,048 that fit."""
    wrong = [token for token in range(100, 2048) if not held.allows(token)][:2]
    right = [token for token in range(2048) if held.allows(token)][:2]
    logprobs = np.full(2048, -np.inf, np.float32)
    logprobs[[*wrong, *right]] = np.log([0.3, 0.3, 0.3, 0.1])
    draw = held.sampler(make_sampler(1.0, seed=3))
    drawn = Counter(int(draw(mx.array(logprobs)).item()) for _ in range(400))
    assert set(drawn) == set(right)
    # 400 draws at 3/4: a standard deviation of 8.7.
    assert abs(drawn[right[0]] - 300) < 4 * 8.7
    return right
