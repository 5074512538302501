"""Whether drafting pays: how many drafts a pass verifies, decided by what passes took.

A pure function of what it is told: no clock, no random number, no array. Times are seconds, and a
pass of k drafts costs its drafting, its k + 1 rows and its commit together. A reply has regimes
(thinking, answer, tool call), whose drafts are right at different rates, and a timeline has
contexts, which cost differently from factor 2 to factor 2.

| rule | what holds |
|---|---|
| start | plain; after 8 tokens every 4th has shadow drafts, compared and never verified |
| gain | of k drafts: expected tokens times a plain one's time, over the time of a pass |
| on | at a gain above 1.06, with the best k; another k is to be 3 % better for 16 passes |
| off | when the last 32 passes gained less than 1; then shadow drafts for every 64th token |
| ledger | all drafting may lose max(1 % of the time, 0.2 s); then 256 tokens are plain, later |
| | 512 and so on up to 4,096 |
| refresh | while on, two plain tokens in 96 passes tell what a plain one takes by now |
| confidence | once 64 drafts told how far a drafter's own word is true, a block is cut where it |
| | gains most, to no draft at all unless somebody demands them |
| watchdog | fewer than 2 % of 64 first drafts right: the drafter is broken, and stays off |
"""

from collections import deque
from collections.abc import Sequence

from dsv4_mlx.engine.draft_confidence import most_worth
from dsv4_mlx.engine.draft_history import (
    MOST_DRAFTS,
    MOST_KEPT,
    TRUSTED,
    Acceptance,
    DraftHistory,
    Pass,
    PassPlan,
    Regime,
    Timings,
)
from dsv4_mlx.errors import UsageError

WARM_UP, SHADOWS, SHADOW_EVERY, IDLE_EVERY = 8, 16, 4, 64
TURN_ON, TURN_OFF, BETTER, FOR_PASSES = 1.06, 1.0, 1.03, 16
LOSS_SHARE, LOSS_SECONDS, SHORTEST_WAIT, LONGEST_WAIT = 0.01, 0.2, 256, 4096
REFRESH_EVERY, REFRESH_NEW_BUCKET = 96, 16
DEAD_SHARE, DEAD_AFTER = 0.02, 64
_RATE, _IDLE_RATE = 1 / 32, 1 / 16
_RECENT = 32
_LONGEST = 4.0
"""A pass that took longer than this many times what is usual waited for somebody else."""


class DraftController:
    """Decides pass after pass; `plan` asks, `record` and `compared` tell what happened."""

    def __init__(
        self,
        predicted: Sequence[float],
        *,
        most: int = 5,
        demanded: bool = False,
        measured: DraftHistory | None = None,
    ) -> None:
        """`predicted[k]` is what a pass of k drafts costs in plain tokens while nobody measured it.

        At most `most` drafts a pass. `demanded`: a person named the drafter; every pass verifies,
        and the watchdog alone may stop that. `measured` is kept up to date. UsageError for a `most`
        outside 1 to 7, or beyond `predicted`.
        """
        if not 1 <= most <= min(MOST_DRAFTS, len(predicted) - 1):
            raise UsageError(f"expected 1 to {MOST_DRAFTS} drafts of a pass but found {most}.")
        self._predicted, self._most, self._demanded = tuple(predicted), most, demanded
        self.measured = DraftHistory() if measured is None else measured
        self._news: set[Regime] = set()  # whose drafts were compared since it was decided
        self._news.update(self.measured.acceptance)
        self.saved = 0.0
        """Seconds that drafting saved, negative for a loss."""
        self.broken = False
        """Whether the watchdog stopped the drafter."""
        self._time = 0.0
        self._tokens, self._since_shadow, self._since_refresh = 0, 0, 0
        self._on: dict[Regime, int] = {}  # drafts of a pass, where it is on
        self._better: tuple[int, int] = (0, 0)  # another number of drafts, and for how many passes
        self._gains: deque[float] = deque(maxlen=_RECENT)
        self._waits_until, self._wait = 0, SHORTEST_WAIT
        self._refreshing, self._last_drafted = 0, 0
        self._firsts: deque[bool] = deque(maxlen=DEAD_AFTER)

    def plan(self, context: int, regime: Regime) -> PassPlan:
        """What the pass after `context` tokens does."""
        if self.broken:
            return PassPlan()
        if self._demanded:
            return PassPlan(self._best(context, regime)[0] or self._most, verify=True)
        if self._tokens < self._waits_until or self._plain(context) is None:
            return PassPlan()
        self._turn_on(context, regime)
        if drafts := self._on.get(regime, 0):
            if self._refreshing or self._has_to_refresh(context):
                return PassPlan()
            if not self._affords(self._cost(context, drafts) - self._known_plain(context)):
                self._stop_for_a_while()
                return PassPlan()
            return PassPlan(drafts, verify=True)
        due = SHADOW_EVERY if self._is_new(regime) else IDLE_EVERY
        if self._since_shadow + 1 >= due and self._affords(self._shadow_cost(context)):
            return PassPlan(self._most)
        return PassPlan()

    def record(self, done: Pass) -> None:
        """Learn from a pass."""
        self._tokens += done.tokens
        switched = (done.drafted > 0) != (self._last_drafted > 0)
        usual = self._usual(done)
        seconds = done.seconds if usual is None else min(done.seconds, _LONGEST * usual)
        self._time += seconds
        if not switched and not done.shadow and done.tokens:
            on = bool(self._on)
            self._timings(done.context).add(
                done.drafted, seconds, kept=TRUSTED if on else MOST_KEPT
            )
        self._last_drafted = done.drafted
        plain = self._plain(done.context)
        gained = 0.0 if plain is None else done.tokens * plain - seconds
        self._since_shadow = 0 if done.shadow else self._since_shadow + done.tokens
        cut = done.shadow and bool(self._on.get(done.regime))  # drafts that were not worth a row
        if done.drafted or cut:
            self._learn(done, gained, None if plain is None else done.tokens * plain / seconds)
        else:
            self._refreshing = max(0, self._refreshing - 1)
            self.saved += min(gained, 0.0) if done.shadow else 0.0

    def compared(self, regime: Regime, drafted: int, accepted: int) -> None:
        """Shadow drafts met the tokens that were drawn: the first `accepted` were right."""
        found = self._acceptance(regime)
        found.add(drafted, accepted, _RATE if self._is_new(regime) else _IDLE_RATE)
        self._news.add(regime)
        self._watch(accepted > 0)

    def worth(self, context: int, regime: Regime, confidence: Sequence[float]) -> int:
        """How many of the drafts that were made to verify, given their confidence logits."""
        plain, likely = self._plain(context), self.measured.likely(regime, confidence)
        if plain is None or likely is None:
            return len(confidence)
        return most_worth(likely, self._costs(context, plain), plain, least=int(self._demanded))

    def _learn(self, done: Pass, gained: float, gain: float | None) -> None:
        self.saved += gained
        judged = done.drafted if done.judged is None else done.judged
        self._acceptance(done.regime).add(judged, done.accepted, _RATE)
        self._since_refresh += 1
        if judged:
            self._watch(done.accepted > 0)
        if gain is None or self._demanded:
            return
        self._gains.append(gain)
        full = len(self._gains) == _RECENT
        if full and sum(self._gains) / _RECENT < TURN_OFF:
            self._turn_off(done.regime)
        elif self.saved < -self._allowance():
            self._stop_for_a_while()
        else:
            self._reconsider(done.context, done.regime)

    def _watch(self, right: bool) -> None:
        self._firsts.append(right)
        full = len(self._firsts) == DEAD_AFTER
        self.broken = self.broken or (full and sum(self._firsts) < DEAD_SHARE * DEAD_AFTER)

    def _turn_on(self, context: int, regime: Regime) -> None:
        if self._on.get(regime) or self._is_new(regime) or regime not in self._news:
            return
        self._news.discard(regime)
        drafts, gain = self._best(context, regime)
        if gain > TURN_ON:
            self._on[regime] = drafts
            self._gains.clear()
            self._better = (0, 0)

    def _turn_off(self, regime: Regime) -> None:
        self._on.pop(regime, None)
        self._gains.clear()

    def _stop_for_a_while(self) -> None:
        self._on.clear()
        self._gains.clear()
        self._news.update(self.measured.acceptance)
        self._waits_until = self._tokens + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)

    def _reconsider(self, context: int, regime: Regime) -> None:
        """Change the number of drafts once another has been better for a while."""
        now = self._on.get(regime, 0)
        best, gain = self._best(context, regime)
        if not now or best == now or gain < BETTER * self._gain(context, regime, now):
            self._better = (0, 0)
            return
        other, passes = self._better
        self._better = (best, passes + 1 if other == best else 1)
        if self._better[1] >= FOR_PASSES:
            self._on[regime], self._better = best, (0, 0)

    def _has_to_refresh(self, context: int) -> bool:
        known = self._timings(context).of(0) is not None
        if self._since_refresh < (REFRESH_EVERY if known else REFRESH_NEW_BUCKET):
            return False
        self._since_refresh, self._refreshing = (
            0,
            2,
        )  # the first is slower than others, by the switch
        return True

    def _best(self, context: int, regime: Regime) -> tuple[int, float]:
        """The number of drafts that gains most, and its gain; 0 while a plain token's time is not
        known."""
        if (plain := self._plain(context)) is None:
            return 0, 0.0
        found, expected = self._acceptance(regime), self._costs(context, plain)
        gains = [found.expected(k) * plain / expected[k - 1] for k in range(1, self._most + 1)]
        best = max(gains)
        return gains.index(best) + 1, best

    def _gain(self, context: int, regime: Regime, drafts: int) -> float:
        expected = self._acceptance(regime).expected(drafts)
        return expected * self._known_plain(context) / self._cost(context, drafts)

    def _cost(self, context: int, drafts: int) -> float:
        return self._costs(context, self._known_plain(context))[drafts - 1]

    def _costs(self, context: int, plain: float) -> list[float]:
        """Seconds of passes of 1, 2, ... drafts: measured here, else predicted, by how far the
        measured ones nearest to it were off."""
        here, drafts = self._timings(context), range(1, self._most + 1)
        off = {k: ratio / self._predicted[k] for k in drafts if (ratio := self._ratio(context, k))}
        costs = []
        for k in drafts:
            by = off[min(off, key=lambda one: abs(one - k))] if off else 1.0
            measured = here.of(k)
            costs.append(plain * self._predicted[k] * by if measured is None else measured)
        return costs

    def _ratio(self, context: int, drafts: int) -> float | None:
        """What so many drafts cost in plain tokens, in the nearest bucket where both are known."""
        for timings in self._near(context):
            plain, measured = timings.of(0), timings.of(drafts)
            if plain and measured:
                return measured / plain
        return None

    def _plain(self, context: int) -> float | None:
        """Seconds of a plain token, here or in the nearest bucket that knows it."""
        if self._tokens < WARM_UP:
            return None
        least = 1 if self._on else TRUSTED
        found = (timings.of(0, least) for timings in self._near(context))
        return next((seconds for seconds in found if seconds is not None), None)

    def _near(self, context: int) -> list[Timings]:
        """The buckets that are known, the nearest first."""
        here, known = _bucket(context), self.measured.timings
        return [known[bucket] for bucket in sorted(known, key=lambda one: abs(one - here))]

    def _known_plain(self, context: int) -> float:
        plain = self._plain(context)
        assert plain is not None
        return plain

    def _usual(self, done: Pass) -> float | None:
        found = self._timings(done.context).of(done.drafted)
        if found is None and (plain := self._plain(done.context)) is not None:
            return plain * self._predicted[min(done.drafted, len(self._predicted) - 1)]
        return found

    def _shadow_cost(self, context: int) -> float:
        share = self._predicted[self._most] - self._predicted[self._most - 1]
        return self._known_plain(context) * min(share, 1.0)

    def _affords(self, loss: float) -> bool:
        return self.saved - max(loss, 0.0) >= -self._allowance()

    def _allowance(self) -> float:
        return max(LOSS_SHARE * self._time, LOSS_SECONDS)

    def _is_new(self, regime: Regime) -> bool:
        return self._acceptance(regime).counts[0] < SHADOWS

    def _acceptance(self, regime: Regime) -> Acceptance:
        return self.measured.acceptance.setdefault(regime, Acceptance())

    def _timings(self, context: int) -> Timings:
        return self.measured.timings.setdefault(_bucket(context), Timings())


def _bucket(context: int) -> int:
    """Contexts from 2^n to below 2^(n + 1) tokens are one."""
    return max(context, 1).bit_length()
