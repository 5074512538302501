"""Sessions on a fake model, for the tests of them."""

from typing import Any

import numpy as np

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.scripted.fake import FakeModel, fake_engine

PROMPT = list(range(2, 42))


def engine(model: FakeModel | None = None, **options: Any) -> Engine:
    return fake_engine(model, **{"prefill_chunk": 16, **options})


def synced(prompt: list[int] = PROMPT, **options: Any) -> Session:
    session = engine(**options).session()
    session.sync(prompt)
    return session


def ids(session: Session, count: int, **options: Any) -> list[int]:
    return [token.id for token in session.stream(count, stop_ids=(), **options)]


def expected(history: list[int], count: int) -> list[int]:
    """Greedy tokens after `history`, from the model alone."""
    model, history = FakeModel(), list(history)
    for _ in range(count):
        history.append(int(np.argmax(model.logits(history))))
    return history[len(history) - count :]


class SetAfter:
    """A flag that is set from its n-th look on."""

    def __init__(self, looks: int):
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0
