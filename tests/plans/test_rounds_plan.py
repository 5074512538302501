"""Tokens of several timelines by one call have the bits of single calls, on the Metal texts."""

import json
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.compiled import CompiledStep
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.token_map import TOKEN_MAP_FILE
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels.registry import KernelPlan
from tests.engine.company import Speaker, in_company, speaking
from tests.engine.small_models import arrays, same
from tests.engine.small_models import on as continued
from tests.kernels.host import host_plan
from tests.model import running

pytestmark = pytest.mark.needs("metalhost")
PLACES = (250, 66, 31)
"""Where windows of 128 and of 4 tokens close, and where indexers begin to select."""
LATER = (250, 189, 132)
"""The same where every layer has entries, so that a token is replayed."""


@pytest.fixture
def exact() -> Iterator[KernelPlan]:
    with host_plan("fast", exact_rows=8) as plan:
        yield plan


@pytest.fixture
def taken_apart() -> Iterator[None]:
    """What `mx.compile` is given runs as it is, without a compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def with_engram(parent: Path) -> Path:
    """A checkpoint whose first and third layers look up."""
    facts = EngramConfig((0, 2), 50, 90, max_ngram_size=4, n_heads=2, head_dim=64)
    folder = write_tiny_checkpoint(parent, TINY.replace(engram=facts), tokenizer=False)
    (folder / TOKEN_MAP_FILE).write_text(json.dumps([n % 50 for n in range(TINY.vocab_size)]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["built", "replayed", "replayed with Engram"])
def test_replies_in_company_have_the_bits_of_those_alone(
    exact: KernelPlan, taken_apart: None, tmp_path: Path, kind: str
) -> None:
    compiled, engram = kind != "built", kind.endswith("Engram")
    lengths = LATER if compiled else PLACES
    folder = with_engram(tmp_path) if engram else running.checkpoint_folder("tiny", tmp_path)
    model = load_model(
        open_checkpoint(folder),
        dtype=mx.bfloat16,
        numerics=Numerics.PLAIN,
        backend="cpu",
        kernels=exact,
    )
    model.row_finding = RowFinding(8, round_rows=8)
    engine, reading = Engine(model, compiled=compiled), Engine(running.load(folder))
    trunks: list[Session] = []
    for length in lengths:
        trunks.append(reading.session())
        trunks[-1].sync(
            [int(one) for one in np.random.default_rng(length).integers(2, 500, length)]
        )

    def speakers() -> list[Speaker]:
        begun = [continued(engine, trunk) for trunk in trunks]
        return [speaking(one, 10, temperature=0.7, seed=n) for n, one in enumerate(begun)]

    together, alone = speakers(), speakers()
    in_company(engine, together)
    for one, expected in zip(together, alone, strict=True):
        in_company(engine, [expected])
        assert one.said == expected.said and len(one.said) == 10
        assert same(arrays(one.session), arrays(expected.session))
    if compiled:
        step = engine._step
        assert isinstance(step, CompiledStep) and len(step._rounds) == 4
