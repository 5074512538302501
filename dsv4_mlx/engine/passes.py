"""What the passes of one reply take and give: the clock and the counts beside the controller."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import mlx.core as mx

from dsv4_mlx.engine.controller import DraftController
from dsv4_mlx.engine.draft_history import DraftUse, Pass, Regime
from dsv4_mlx.engine.drafters import Confidence, confidence_of, ids_of

_NOT_BEGUN: Final = -1


class Passes:
    """The passes of one reply: `begin` asks for drafts, `give` counts, `end` closes the last."""

    def __init__(
        self,
        controller: DraftController,
        regime: Callable[[], Regime] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        decodes_many: Callable[[], bool] = lambda: False,
    ) -> None:
        """`decodes_many` tells whether other replies are under way; passes are plain then, and
        teach the controller nothing, as times are those of others too."""
        self._controller, self._clock, self._decodes_many = controller, clock, decodes_many
        self._regime: Callable[[], Regime] = regime or (lambda: "answer")
        self._saved_before = controller.saved
        self._began, self._context, self._now = 0.0, _NOT_BEGUN, self._regime()
        self._tokens = self._drafted = self._refused = 0
        self._is_shadow = self._among_many = False
        self._shadow: tuple[Regime, mx.array | Sequence[int]] | None = None
        self._confidence: Confidence = None  # in the drafts that are verified
        self._shadow_confidence: Confidence = None
        self._place = 0  # of the shadow draft that the next token is compared with
        self._passes = self._all_drafted = self._all_accepted = 0

    @property
    def use(self) -> DraftUse:
        """What the passes that ended gave."""
        saved = self._controller.saved - self._saved_before
        return DraftUse(self._passes, self._all_drafted, self._all_accepted, saved)

    def begin(self, context: int, room: int) -> tuple[int, int]:
        """Drafts to verify and drafts to make as shadows, for the pass after `context` tokens.

        `room` tokens may follow the first one of it.
        """
        self.end()
        self._began, self._context, self._now = self._clock(), context, self._regime()
        self._among_many = self._decodes_many()
        if self._among_many:
            return 0, 0
        plan = self._controller.plan(context, self._now)
        if plan.verify:
            return min(plan.drafts, room), 0
        return 0, 0 if self._shadow is not None else plan.drafts

    def verifies(self, made: int, confidence: Confidence = None) -> int:
        """How many of the drafts that were made the pass verifies: all, unless a drafter that says
        how sure it is says that fewer gain more. What it says is waited for once it is believed.
        """
        self._drafted, self._confidence = made, confidence
        if confidence is not None and self._controller.measured.believes_confidence:
            words = confidence_of(confidence)
            if made and len(words) == made:
                self._drafted = self._controller.worth(self._context, self._now, words)
        return self._drafted

    def shadows(self, drafts: mx.array | Sequence[int], confidence: Confidence = None) -> None:
        """These drafts were made beside the pass; the next token given is the first one's.

        They are compared unless others still are.
        """
        if len(drafts):
            self._is_shadow = True
            if self._shadow is None:
                self._shadow, self._place = (self._now, drafts), 0
                self._shadow_confidence = confidence

    def give(self, token: int) -> None:
        """The pass gave `token`."""
        self._tokens += 1
        self._among_many = self._among_many or self._decodes_many()
        self._compare(token)

    def interrupt(self) -> None:
        """The pass stops for a while, and so does not tell how long one takes."""
        self._among_many = True

    def refuse(self) -> None:
        """The draft in this place was wrong."""
        self._refused = 1

    def end(self) -> None:
        """The pass is over, whether its drafts were looked at or not."""
        if self._context < 0 or not self._tokens:
            return
        accepted = self._tokens - 1
        if not (self._among_many or self._decodes_many()):
            self._record(accepted)
        self._passes += 1
        self._all_drafted += self._drafted
        self._all_accepted += accepted
        self._tokens = self._drafted = self._refused = 0
        self._is_shadow, self._context, self._confidence = False, _NOT_BEGUN, None

    def _record(self, accepted: int) -> None:
        """Let the controller learn from the pass."""
        judged = min(self._drafted, accepted + self._refused)
        seconds = self._clock() - self._began
        self._controller.record(
            Pass(
                self._context,
                self._now,
                self._tokens,
                seconds,
                self._drafted,
                accepted,
                self._is_shadow,
                judged,
            )
        )
        if judged:
            words = confidence_of(self._confidence)
            self._controller.measured.confided(words, judged, accepted)

    def _compare(self, token: int) -> None:
        """Look whether the shadow draft in this place is `token`."""
        if self._shadow is None:
            return
        regime, drafts = self._shadow
        if isinstance(drafts, mx.array):
            drafts = ids_of(drafts)
            self._shadow = regime, drafts
        right = drafts[self._place] == token
        self._place += 1
        if not right or self._place == len(drafts):
            accepted = self._place - 1 + right
            self._controller.compared(regime, self._place, accepted)
            words = confidence_of(self._shadow_confidence)
            self._controller.measured.confided(words, self._place, accepted)
            self._shadow = None
