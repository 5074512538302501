"""How often the MTP block guesses what the model itself would say next, on held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from dsv4_mlx.errors import UsageError
from dsv4_mlx.training.data.lessons import lesson_of
from dsv4_mlx.training.data.task import Task

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.model.v4 import Model


def accepted(model: Model, tokenizer: Tokenizer, task: Task) -> tuple[int, int]:
    """(accepted, drafted) tokens of what the assistant says in the task's lesson.

    The block sees the streams at t and the lesson's token t + 1, and guesses t + 2. Greedy decoding
    would take the guess if the model, having read t + 1, says the same; the text is the lesson's,
    so every position counts alike whatever was accepted before. UsageError without an MTP block.
    """
    if not model.mtp:
        raise UsageError("expected a model with an MTP block but found none; use another model.")
    lesson = lesson_of(tokenizer, task)
    tokens = mx.array([lesson.ids], mx.int32)
    streams = model.streams(tokens)
    own = mx.argmax(model.logits(streams), axis=-1)[0, 1:]  # at t + 1, what comes at t + 2
    guessed = model.mtp[0].predict(
        streams[:, :-1], tokens[:, 1:], embed=model.model.embed_tokens, head=model.lm_head
    )
    same = np.array(mx.argmax(guessed, axis=-1)[0] == own)
    # The last position has no token after it; a draft counts where the assistant speaks.
    drafted = np.array(lesson.weights[2:]) == 1.0
    return int((same[:-1] & drafted).sum()), int(drafted.sum())


def acceptance(model: Model, tokenizer: Tokenizer, asked: Sequence[Task]) -> tuple[int, int]:
    """(accepted, drafted) over all the tasks."""
    pairs = [accepted(model, tokenizer, task) for task in asked]
    return sum(one for one, _ in pairs), sum(count for _, count in pairs)
