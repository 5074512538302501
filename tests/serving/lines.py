"""Prompts answered over timelines, for the tests of them."""

from collections.abc import Sequence
from typing import Any

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.scripted.fake import FakeModel, fake_engine
from dsv4_mlx.serving.timelines import Timelines

CHUNK = 16


def engine(model: FakeModel | None = None, **options: Any) -> Engine:
    return fake_engine(model, **{"prefill_chunk": CHUNK, **options})


def timelines(budget_bytes: int = 1 << 30, **options: Any) -> Timelines:
    return Timelines(engine(**options), budget_bytes)


def answered(
    lines: Timelines,
    prompt: Sequence[int],
    count: int = 0,
    *,
    places: Sequence[int] = (),
    beginnings: Sequence[int] = (),
    owner: str = "",
    is_side: bool = False,
) -> tuple[int, list[int]]:
    """Tokens of `prompt` that were reused, and `count` tokens after it."""
    with lines.open(prompt, owner, is_side=is_side) as line:
        held = list(line.session.reading(prompt, places))
        assert held[0] == line.reused
        assert held[-1] == len(prompt)
        ids = [token.id for token in line.session.stream(count, stop_ids=())]
        lines.keep(line, beginnings)
    return line.reused, ids
