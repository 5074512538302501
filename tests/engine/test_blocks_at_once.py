"""Blocks of drafts read by one call: replies, states and host waits, where a plan is row-exact."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.cache import fork
from dsv4_mlx.engine.drafters import DraftIds, DraftModel
from dsv4_mlx.engine.drafting import Drafting
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.generation import Token
from dsv4_mlx.engine.session import Session
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DSpark
from dsv4_mlx.scripted.fake import FakeModel
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels.registry import KernelPlan
from tests.engine import small_models
from tests.engine.drafting import KINDS, ScriptedDrafter, ScriptedDrafts, from_text
from tests.engine.replies import SAMPLINGS
from tests.engine.sessions import SetAfter
from tests.engine.waits import counted
from tests.model.row_exact import MOST, row_exact_plan

EOS = 1
SMALL = small_models.SELECTING
CONFIGS = {
    "mtp": SMALL.replace(num_hidden_layers=2, compress_ratios=(4, 128, 0)),
    "dspark": SMALL.replace(
        dspark=DSpark(5, 127, (0, 1, 2), 8), compress_ratios=(0, 4, 128, 0, 0, 0)
    ),
}


def prompt_of(length: int) -> list[int]:
    """Ids below 128 with repeats."""
    return [(7 * i * i + 3 * i) % 25 + 2 for i in range(length)]


def said(session: Session, how: dict[str, Any]) -> list[Token]:
    numbers, cancel, at = itertools.count(), how["cancel"], how["steered"]
    return list(
        session.stream(
            how["max_tokens"],
            seed=how["seed"],
            stop_ids={EOS},
            cancel=None if cancel is None else SetAfter(cancel),
            steer=None if at is None else lambda: 9 if next(numbers) == at else None,
            **SAMPLINGS[how["sampling"]],
        )
    )


def state(session: Session) -> list[np.ndarray]:
    """Every array of a session's state, and the logits after its last token."""
    snapshot = session.snapshot()
    rows: Any = (row for rows in snapshot.state.layers for row in rows)
    found = [array for row in rows for _, array in sorted(row.arrays().items())]
    return [np.array(array) for array in [*found, snapshot.logits]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: tmp_path_factory.mktemp(name) for name in CONFIGS}
    for name, config in CONFIGS.items():
        write_tiny_checkpoint(found[name], config, tokenizer=False)
    return found


def on(plan: KernelPlan, folder: Path) -> Model:
    checkpoint = open_checkpoint(folder)
    return load_model(checkpoint, dtype=mx.float32, kernels=plan, drafts=True)


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Model]:
    return {name: on(row_exact_plan(), folder) for name, folder in folders.items()}


def session_of(model: Model, length: int, drafts: DraftModel | None = None, **how: Any) -> Session:
    engine = Engine(model, drafts=drafts, draft_demanded=True, compiled=False, **how)
    session = engine.session()
    session.sync(prompt_of(length))
    return session


@dataclass
class OnDevice:
    """A scripted drafter whose guesses are arrays."""

    scripted: ScriptedDrafts
    name: str = "on a device"
    draft_costs: tuple[float, ...] = (0.0,) * 8
    needs_features: bool = False

    def new_drafter(self) -> "OnDeviceDrafter":
        return OnDeviceDrafter(self.scripted)


class OnDeviceDrafter(ScriptedDrafter):
    def draft(self, anchor: int, count: int, draws: Any = ()) -> DraftIds:  # type: ignore[override]
        return mx.array(super().draft(anchor, count), mx.int32)


# Before windows of 4 and 128 close inside of a block, and before indexers select, at 68.
@pytest.mark.parametrize("before", [2, 63, 124])
def test_rows_at_once_have_the_bits_of_single_ones(models: dict[str, Model], before: int) -> None:
    """Of the plan that the other tests here are about."""
    model = models["dspark"]
    ids = prompt_of(before + MOST)
    cache = model.make_cache()
    model.last_logits(mx.array([ids[:before]]), cache)
    together, single = fork(cache), fork(cache)
    logits, taps = model.logits_and_features(mx.array([ids[before:]]), together)
    for row, token in enumerate(ids[before:]):
        alone, tap = model.last_logits_and_features(mx.array([[token]]), single)
        np.testing.assert_array_equal(np.array(logits[0, row]), np.array(alone[0]))
        np.testing.assert_allclose(np.array(taps[0, row]), np.array(tap[0, 0]), atol=1e-5)
    for one, other in zip(together, single, strict=True):
        kept, expected = one.rows[0].arrays(), other.rows[0].arrays()
        assert set(kept) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(np.array(kept[name]), np.array(array), err_msg=name)


PLAIN: dict[str, Any] = {
    "sampling": "0.7", "seed": 3, "max_tokens": 7, "cancel": None, "steered": None,
}  # fmt: skip
Case = tuple[str, str, int, int, dict[str, Any]]
# model, drafter, prompt, drafts of a pass, and how the reply differs from PLAIN
CASES: list[Case] = [
    ("dspark", "own", 126, 5, {"sampling": "greedy", "max_tokens": 4}),
    ("mtp", "right", 62, 7, {"max_tokens": 9}),
    ("mtp", "right then wrong", 125, 3, {"sampling": "penalty"}),
    ("mtp", "eos", 3, 3, {"max_tokens": 4}),
    ("mtp", "on a device", 66, 7, {"sampling": "1.0", "cancel": 6}),
]
MORE_CASES: list[Case] = [
    ("mtp", "own", 30, 3, {}),
    ("dspark", "right then wrong", 62, 7, {"sampling": "top-p", "steered": 3}),
    ("dspark", "wrong", 30, 2, {"sampling": "min-p", "max_tokens": 5}),
    ("mtp", "right", 127, 5, {"cancel": 4}),
    *(("mtp", "right then wrong", 124, 7, {"max_tokens": n, "seed": n}) for n in range(1, 13)),
    *(("mtp", "right", 63, 5, {"cancel": n, "sampling": "penalty"}) for n in range(1, 7)),
]


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE_CASES)], ids=str
)
def test_replies_by_blocks_are_those_of_single_tokens(
    models: dict[str, Model], case: tuple[str, str, int, int, dict[str, Any]]
) -> None:
    name, drafter, length, most, differs = case
    model, how = models[name], PLAIN | differs
    expected = session_of(model, length)
    beginning = expected.snapshot()
    reply = said(expected, how)
    kept = state(expected)
    expected.restore(beginning)
    text = [*expected.tokens, *(t.id for t in said(expected, how | {"cancel": None}))]
    drafts: Any = model.drafts()
    if drafter != "own":
        kind = "right then wrong" if drafter == "on a device" else drafter
        drafts = ScriptedDrafts(KINDS[kind](text, model.config.vocab_size, EOS))
    if drafter == "on a device":
        drafts = OnDevice(drafts)
    session = session_of(model, length, drafts, draft_most=most)
    calls: list[int] = []
    own = session._running._read_rows
    session._running._read_rows = lambda tokens, cache: (  # type: ignore[method-assign]
        calls.append(tokens.shape[1]) or own(tokens, cache)  # type: ignore[func-returns-value]
    )
    assert said(session, how) == reply
    for one, other in zip(state(session), kept, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    use = session.draft_use
    assert use is not None and use.passes + use.accepted == len(reply)
    assert sum(calls) == use.drafted + len(calls)  # every draft was a row of one call
    assert max(calls, default=0) <= most + 1  # one token alone is drawn from the prompt


@pytest.mark.parametrize(("penalty", "waits"), [(1.0, 1), (1.3, 3)])
def test_a_cycle_waits_once(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch, penalty: float, waits: int
) -> None:
    """Two drafts of a device that are right; a draw with a penalty depends on the one before."""
    how: dict[str, Any] = {"temperature": 0.7, "seed": 1, "repetition_penalty": penalty}
    expected = session_of(models["mtp"], 30)
    text = [*expected.tokens, *(one.id for one in expected.stream(10, stop_ids=(), **how))]
    drafts = OnDevice(ScriptedDrafts(from_text(text)))
    session = session_of(models["mtp"], 30, drafts, draft_most=2)
    stream = session.stream(10, stop_ids=(), **how)
    with counted(monkeypatch) as found:
        next(stream)
        before = found.count
        for _ in range(6):
            next(stream)
        assert found.count - before == 2 * waits
    assert session.tokens == text[: len(session)]


def test_blocks_are_cut_to_the_rows_that_are_exact() -> None:
    model = FakeModel()
    for rows, most in ((1, 5), (2, 1), (4, 3), (8, 5)):
        model.exact_rows = rows
        drafting = Drafting(model)
        drafting.draft_with(ScriptedDrafts(lambda tokens, count: []), None, demanded=True)
        controller = drafting.controller
        assert controller is not None and controller.plan(100, "answer").drafts == most
