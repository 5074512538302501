"""A reply with drafts is the reply without, bit for bit, in whatever way it is drawn and ends.

A covering array: every value of a column meets every value of every other one. Prompts are read
once for each model and length; cases go on from forks.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.drafters import DraftModel, Lookup
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import UsageError
from dsv4_mlx.model.v4 import Model
from tests.engine import drafting, replies
from tests.engine.covering import Case, covering
from tests.engine.replies import SAMPLINGS, Said, say
from tests.engine.small_models import (
    arrays,
    load_small_models,
    load_with_drafts,
    on,
    prompt_of,
    same,
)
from tests.model.running import NANO

KNOWING = ("right", "wrong", "right then wrong")
"""Scripts that know the reply to come."""
COLUMNS: dict[str, Sequence[Any]] = {
    "model": ("mtp", "dspark", "nano"),
    "drafter": (*KNOWING, "random", "eos", "no token", "own", "lookup"),
    "sampling": tuple(SAMPLINGS),
    "seed": tuple(range(4)),
    # test_speculation.py has every limit and every place to cancel at, of a scripted model.
    "max_tokens": (1, 2, 3, 5, 9),
    "cancel": (None, 1, 2, 4, 8),
    "reply": replies.KINDS,
    # Before the first window of 4 closes, the ring of 32 is full, windows of 128 close, at 2,052
    # queries begin to select.
    "position": (3, 30, 62, 125, 2046),
    "most": (1, 3, 5, 7),
}


@cache
def cases() -> list[Case]:
    """In the order of models and positions, as trunks grow."""
    found = covering(COLUMNS, lambda case: math.sqrt(_rows(case) * _MODEL_COSTS[case["model"]]))
    return sorted(found, key=lambda case: (case["model"], case["position"]))


_MODEL_COSTS = {"mtp": 1.0, "dspark": 1.2, "nano": 7.0}


def _rows(case: Case) -> float:
    """Rows that a case reads, about: once without drafts, and a block for each that is wrong.

    Where the model's own drafter reads the prompt, that is as much as some rows.
    """
    tokens = min(case["max_tokens"], case["cancel"] or 9)
    rooms = (case["max_tokens"] - number for number in range(tokens))
    wrong = case["drafter"] in ("wrong", "random", "eos")
    prompt = case["position"] / 20 if case["drafter"] == "own" else 1
    return prompt + tokens + sum(min(case["most"] + 1, room) if wrong else 1.5 for room in rooms)


@dataclass
class Trunk:
    """A prompt that grows, read without drafts and, where that is asked for, with the model's."""

    model: Model
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        self.plain = Engine(self.model, prefill_chunk=512).session()
        self.own = self.model.drafts()
        self.drafted = self.engine(self.own, 5).session()

    def engine(self, drafts: DraftModel | None, most: int) -> Engine:
        return Engine(
            self.model, prefill_chunk=512, drafts=drafts, draft_most=most, draft_demanded=True
        )

    def prompt(self, length: int) -> list[int]:
        return prompt_of(length, self.model.config.vocab_size)

    def without(self, case: Case) -> Session:
        self.grow(self.plain, case["position"])
        return self.plain.fork()

    def grow(self, session: Session, length: int) -> None:
        """Read the prompt in the same calls, whichever lengths are asked for."""
        for end in COLUMNS["position"]:
            if len(session) < end <= length:
                session.sync(self.prompt(end))

    def with_drafts(self, case: Case, reply: list[int]) -> Session:
        """A session whose drafter may know that `reply` is the one to come."""
        prompt = self.prompt(case["position"])
        if case["drafter"] == "own":
            assert self.own is not None
            self.grow(self.drafted, case["position"])
            return on(self.engine(self.own, case["most"]), self.drafted)
        drafts: DraftModel = Lookup()
        if case["drafter"] != "lookup":
            vocab, eos = self.model.config.vocab_size, self.tokenizer.eos_id
            make = drafting.KINDS.get(case["drafter"])
            drafts = drafting.ScriptedDrafts(
                drafting.always_this(vocab) if make is None else make([*prompt, *reply], vocab, eos)
            )
        return on(self.engine(drafts, case["most"]), self.plain)


@pytest.fixture(scope="module")
def trunk_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trunk]:
    parent = tmp_path_factory.mktemp("models")
    small = load_small_models(parent)

    @cache
    def of(name: str) -> Trunk:
        if name == "nano":
            return Trunk(load_with_drafts(NANO), Tokenizer(NANO))
        return Trunk(small[name], Tokenizer(parent / name))

    return of


def said(session: Session, trunk: Trunk, case: Case, **changes: Any) -> Said:
    asked = {**case, **changes}
    return say(
        session,
        trunk.tokenizer,
        asked["reply"],
        asked["max_tokens"],
        cancel=asked["cancel"],
        seed=asked["seed"],
        **SAMPLINGS[asked["sampling"]],
    )


def check(trunk: Trunk, case: Case) -> None:
    expected = trunk.without(case)
    reply = said(expected, trunk, case)
    to_come = reply
    if case["cancel"] is not None and case["drafter"] in KNOWING:
        to_come = said(trunk.without(case), trunk, case, cancel=None)
    session = trunk.with_drafts(case, to_come.ids)
    if case["drafter"] == "no token" and _drafts_are_met(case, reply):
        expected = refused(session, trunk, case)
        reply = said(expected, trunk, case)
    found = said(session, trunk, case)
    assert found == reply, case
    assert session.tokens == expected.tokens, case
    assert same(arrays(session), arrays(expected)), case
    if (use := session.draft_use) is not None and case["drafter"] != "no token":
        assert use.passes + use.accepted == len(reply.tokens), case


def _drafts_are_met(case: Case, reply: Said) -> bool:
    """Whether a token may follow the first one, so that drafts are made for it."""
    return case["max_tokens"] > 1 and reply.tokens[0].finish is None


def refused(session: Session, trunk: Trunk, case: Case) -> Session:
    """The reply fails and its timeline stays; a session without drafts that failed in the same
    place."""
    prompt, other = session.tokens, trunk.without(case)
    with pytest.raises(UsageError, match="another model's"):
        said(session, trunk, case)
    with pytest.raises(ZeroDivisionError):
        list(other.stream(2, steer=lambda: 1 // 0))
    assert session.tokens == prompt == other.tokens
    session._running.drafting.draft_with(None, None, False)
    return other


@pytest.mark.parametrize(
    "model",
    [pytest.param(one, marks=[pytest.mark.slow] * (one == "nano")) for one in COLUMNS["model"]],
)
def test_replies_with_drafts_are_those_without(
    trunk_of: Callable[[str], Trunk], model: str
) -> None:
    for case in cases():
        if case["model"] == model:
            check(trunk_of(model), case)


def test_every_pair_of_values_is_covered() -> None:
    for one, other in itertools.combinations(COLUMNS, 2):
        pairs = {(case[one], case[other]) for case in cases()}
        assert pairs == set(itertools.product(COLUMNS[one], COLUMNS[other]))


def test_kinds_of_replies_are_what_they_are_called(trunk_of: Callable[[str], Trunk]) -> None:
    """Without drafts: budgets end reasoning, calls are calls, and texts end where they should."""
    trunk = trunk_of("mtp")
    case = {**cases()[0], "sampling": "1.0", "max_tokens": 9, "cancel": None}
    end_think = trunk.tokenizer.control_ids["</think>"]
    for kind, check_it in {
        "budget of 0": lambda one: one.ids[0] == end_think and one.regimes[1] == "answer",
        "budget that ends": lambda one: end_think in one.ids[:3],
        "in a tool call": lambda one: set(one.regimes) == {"tool"},
        "end of a tool call": lambda one: one.finished.finish_reason == "tool_calls",
        "stop token": lambda one: one.tokens[-1].finish == "stop" and len(one.tokens) <= 4,
        "stop text": lambda one: one.finished.stop_text == "q" and len(one.tokens) <= 5,
        "answer": lambda one: one.tokens[-1].finish is not None,
    }.items():
        session = trunk.without({**case, "position": 3, "reply": kind})
        assert check_it(said(session, trunk, case, reply=kind)), kind
