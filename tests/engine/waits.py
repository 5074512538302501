"""How often a program waits for MLX: reads of values that nobody has waited for yet."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten


class Waits:
    """Counts evaluations that are waited for; those of one `async_eval` are waited for once."""

    def __init__(self) -> None:
        self.count = 0
        self._under_way: dict[int, mx.array] = {}
        self._there: dict[int, mx.array] = {}

    def begin(self, trees: tuple[Any, ...]) -> None:
        self._under_way |= _arrays(trees)

    def wait(self, trees: tuple[Any, ...]) -> None:
        arrays = _arrays(trees)
        if set(arrays) <= set(self._there):
            return
        self.count += 1
        self._there |= arrays | self._under_way
        self._under_way = {}


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Count within; arrays that are read as numpy's are not seen."""
    waits = Waits()
    with monkeypatch.context() as patched:
        for holder, name, before in (
            (mx, "async_eval", waits.begin),
            (mx, "eval", waits.wait),
            (mx.array, "item", waits.wait),
            (mx.array, "tolist", waits.wait),
        ):
            patched.setattr(holder, name, _told(getattr(holder, name), before))
        yield waits


def _told(own: Any, before: Any) -> Any:
    def call(*trees: Any) -> Any:
        before(trees)
        return own(*trees)

    return call


def _arrays(trees: tuple[Any, ...]) -> dict[int, mx.array]:
    """Held, so that no other array gets their place in memory."""
    return {id(one): one for _, one in tree_flatten(list(trees)) if isinstance(one, mx.array)}
