"""Confidences shorten blocks where that gains, are believed as far as they are true, and change no
token."""

import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dsv4_mlx.engine.controller import LOSS_SECONDS, LOSS_SHARE, DraftController
from dsv4_mlx.engine.draft_confidence import LEAST, ConfidenceScale, most_worth
from dsv4_mlx.engine.draft_history import DraftHistory, Pass, PassPlan, Regime
from dsv4_mlx.engine.session import Session
from dsv4_mlx.scripted.fake import fake_engine
from tests.engine.drafting import KINDS, ScriptedDrafts
from tests.engine.sessions import PROMPT
from tests.engine.test_speculation import EOS, LENGTH, SAMPLINGS, VOCAB, model, plain, said, state

# A pass of k drafts in plain tokens, 0.25 of it for the block: each row more costs 0.3.
COSTS = (1.0, *(1.25 + 0.3 * k for k in range(1, 6)))
ROWS = COSTS[1:]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_scale_is_fitted_to_what_was_drawn(temperature: float) -> None:
    rng, found = random.Random(3), ConfidenceScale()
    for _ in range(3000):
        logit = rng.uniform(-5, 5)
        found.add(logit, rng.random() < sigmoid(logit / temperature))
    assert 0.7 / temperature < found.scale < 1.4 / temperature


def test_a_confidence_that_is_always_false_ends_as_no_word_at_all() -> None:
    found = ConfidenceScale()
    for _ in range(200):
        found.add(6.0, False)
    assert found.likely(6.0) < 0.62  # of 0.9975


@pytest.mark.parametrize(
    "likely, least, expected",
    [
        ([1.0] * 5, 0, 5),
        ([0.0] * 5, 0, 0),
        ([0.0] * 5, 1, 1),
        ([0.95, 0.9, 0.05, 1.0, 1.0], 0, 2),
        ([0.05, 1.0, 1.0], 0, 0),
        ([0.9], 0, 1),
    ],
)
def test_a_block_is_as_long_as_it_gains_most(
    likely: list[float], least: int, expected: int
) -> None:
    assert most_worth(likely, ROWS, 1.0, least) == expected


def test_one_draft_is_verified_where_nobody_knows_what_it_costs() -> None:
    assert most_worth([0.0], [1.55], 1.0) == 1


def test_confidences_are_not_believed_before_64_drafts() -> None:
    history = DraftHistory()
    for number in range(LEAST):
        assert history.likely("answer", [1.0, 2.0]) is None, number
        history.confided([1.0, 2.0], judged=1, accepted=1)
    found = history.likely("answer", [1.0, 2.0])
    assert found is not None
    assert found[0] > 0.7 and found[1] == 0.0  # nothing is known of the second


def test_what_is_known_of_confidences_is_kept_in_a_file() -> None:
    history = DraftHistory()
    for _ in range(70):
        history.confided([1.0, -2.0], judged=2, accepted=1)
    record = json.loads(json.dumps(history.as_record()))
    assert DraftHistory.of_record(record) == history
    del record["sure"]  # as written before
    assert DraftHistory.of_record(record) == DraftHistory()


@pytest.mark.parametrize("sure", [3, {"9": [1.0, 3, 0.1]}, {"0": [1.0]}, {"0": [-1.0, 3, 0.1]}])
def test_a_record_of_other_confidences_is_none(sure: object) -> None:
    record = {"seconds": {}, "right": {}, "sure": sure}
    assert DraftHistory.of_record(record) == DraftHistory()


def run(sure: Callable[[bool], float] | None, tokens: int = 3000) -> tuple[float, float]:
    """Seconds that were gained, and seconds in all, where half of the blocks are right whole and
    the others are wrong; `sure` says what the drafter says of each."""
    controller, rng, done, gained, total = DraftController(COSTS), random.Random(1), 0, 0.0, 0.0
    while done < tokens:
        plan, good = controller.plan(100, "answer"), rng.random() < 0.5
        right = plan.drafts if good else 0
        words = [] if sure is None else [sure(good)] * plan.drafts
        verified = plan.drafts if plan.verify else 0
        if verified and words:
            verified = controller.worth(100, "answer", words)
        accepted = min(right, verified)
        cost = COSTS[verified] if verified else 1 + 0.25 * (plan.drafts > 0)
        judged = min(verified, accepted + 1)
        shadow = plan.drafts > 0 and not verified
        controller.record(
            Pass(100, "answer", accepted + 1, 0.03 * cost, verified, accepted, shadow, judged)
        )
        controller.measured.confided(words, judged, accepted)
        if shadow:
            controller.compared("answer", plan.drafts, right)
            controller.measured.confided(words, min(plan.drafts, right + 1), right)
        done += accepted + 1
        gained += 0.03 * (accepted + 1 - cost)
        total += 0.03 * cost
    return gained, total


def test_true_confidences_gain_more_than_none() -> None:
    without, _ = run(None)
    true, _ = run(lambda good: 4.0 if good else -4.0)
    assert true > 1.2 * without > 0


@pytest.mark.parametrize("word", [-6.0, 0.0, 6.0])
def test_confidences_that_say_nothing_lose_no_more_than_the_ledger_allows(word: float) -> None:
    gained, total = run(lambda good: word)
    assert gained > -max(LOSS_SHARE * total, LOSS_SECONDS) - 0.12


class ScriptedController(DraftController):
    """Every pass drafts; of its drafts as many are verified as the script says."""

    def __init__(self, script: Sequence[int]) -> None:
        super().__init__(COSTS)
        for _ in range(LEAST):  # so that words are listened to
            self.measured.confided([1.0], 1, 1)
        self.script, self.asked = itertools.cycle(script), []
        self.verified: list[int] = []

    def plan(self, context: int, regime: Regime) -> PassPlan:
        return PassPlan(5, verify=True)

    def worth(self, context: int, regime: Regime, confidence: Sequence[float]) -> int:
        self.asked.append(list(confidence))
        return min(next(self.script), len(confidence))

    def record(self, done: Pass) -> None:
        super().record(done)
        self.verified.append(done.drafted)


def drafting(kind: str, controller: DraftController, sure: Any, **options: Any) -> Session:
    text = [*PROMPT, *(token.id for token in said(plain(), LENGTH + 8, **options))]
    drafts = ScriptedDrafts(KINDS[kind](text, VOCAB, EOS), sure=sure)
    engine = fake_engine(model(), drafts=drafts, draft_most=5, draft_demanded=True)
    engine.drafting.controller = controller
    session = engine.session()
    session.sync(PROMPT)
    return session


@pytest.mark.parametrize("sampling", ["greedy", "0.7", "penalty"])
@pytest.mark.parametrize("kind", KINDS)
def test_shortened_blocks_give_the_reply_without_drafts(kind: str, sampling: str) -> None:
    options = {**SAMPLINGS[sampling], "seed": 3, "stop_ids": ()}
    controller = ScriptedController([0, 3, 5, 1, 0, 2])
    session = drafting(kind, controller, lambda drafts: [2.0] * len(drafts), **options)
    expected = plain()
    assert said(session, **options) == said(expected, **options)
    assert state(session) == state(expected)
    if kind == "right":  # 1 + 4 + 6 + 2 + 1 + 3 + 1 + 4 tokens, and 2 that end the reply
        assert controller.verified == [0, 3, 5, 1, 0, 2, 0, 3, 1]


def test_every_draft_that_met_its_token_tells_of_its_confidence() -> None:
    """Of blocks that were cut to nothing too, whose drafts are compared like shadows."""

    def sure(drafts: list[int]) -> list[float]:
        return [1.0, -1.0, 3.0, 4.0, 5.0][: len(drafts)]

    for script in ([0], [5]):
        controller = ScriptedController(script)
        session = drafting("right", controller, sure, stop_ids=())
        said(session, stop_ids=())
        found = controller.measured.confidence
        assert found[0].count > LEAST + 1 and found[4].count >= 1
        assert found[1].scale < 1 < found[2].scale  # of two that were right, one had said no


def test_words_that_are_not_as_many_as_drafts_are_not_listened_to() -> None:
    controller = ScriptedController([0])
    session = drafting("right", controller, lambda drafts: [9.0], stop_ids=())
    expected = plain()
    assert said(session, stop_ids=()) == said(expected, stop_ids=())
    assert controller.asked == [[9.0]] * len(controller.asked)  # at most of a single draft
    assert 5 in controller.verified
