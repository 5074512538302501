"""What drafts the tokens of an engine's replies, as somebody chose it, and what is known of it."""

from importlib.metadata import version
from typing import Any, Protocol

import mlx.core as mx

from dsv4_mlx.engine.controller import DraftController
from dsv4_mlx.engine.draft_choice import ELSEWHERE, DraftChoice, most_drafts, refusal, why_not
from dsv4_mlx.engine.draft_history import MOST_DRAFTS, DraftHistory
from dsv4_mlx.engine.drafters import DraftModel, Lookup, predicted_costs
from dsv4_mlx.errors import UsageError


class KeptHistories(Protocol):
    """Histories of drafters that outlive a program."""

    def load(self, drafter: str, /) -> DraftHistory: ...

    def store(self, drafter: str, history: DraftHistory, /) -> None: ...


class Drafting:
    """The drafter of an engine and its controller, both None where nothing drafts."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.drafts: DraftModel | None = None
        self.controller: DraftController | None = None
        self._asked = (0, False)  # drafts of a pass, and whether somebody demands them
        self._histories: dict[str, DraftHistory] = {}
        self.kept: KeptHistories | None = None
        """Where what is measured begins and ends; set it before the first reply."""
        self.not_loaded = ""
        """Why draft blocks that the checkpoint has were not loaded, where memory is short."""

    @property
    def exact_rows(self) -> int:
        """Rows that one call reads with the bits that single calls have."""
        return int(getattr(self._model, "exact_rows", 1))

    def why_off(self, kind: DraftChoice) -> str:
        """Why nothing drafts where `kind` was chosen, for people; "" where something may."""
        if kind in ("off", "lookup"):
            return ""
        config = getattr(self._model, "config", None)
        may_have = getattr(config, "draft_kind", None)
        own = self._own()
        if own is None and self.not_loaded and kind in ("auto", may_have):
            return self.not_loaded.rstrip(".")
        if kind != "auto":
            return ""
        if self.weights_elsewhere:
            return "experts are streamed or layers are piped, where drafts only cost"
        plan = getattr(self._model, "kernel_plan", None)
        backend = None if plan is None else plan()["backend"]
        has = None if own is None else own.name
        finding = getattr(self._model, "row_finding", None)
        found = "" if finding is None else finding.reason
        return why_not(has, may_have, backend, self.exact_rows, found)

    def _own(self) -> DraftModel | None:
        """What drafts with the model's own weights."""
        own: DraftModel | None = getattr(self._model, "drafts", lambda: None)()
        return own

    @property
    def weights_elsewhere(self) -> bool:
        """Whether experts are streamed from files or layers are piped over machines.

        Every row then waits for weights of its own, so that drafts can only cost: they are off.
        """
        return bool(getattr(self._model, "weights_elsewhere", False))

    @property
    def machine(self) -> str:
        """What the times of drafts depend on: the model, MLX and what runs it."""
        plan = getattr(self._model, "kernel_plan", None)
        backend = "" if plan is None else plan()["backend"]
        device = mx.device_info().get("device_name", "")
        return f"{self._model.fingerprint} {backend} {device} mlx {version('mlx')}"

    def store(self) -> None:
        """Keep what was measured, after a reply."""
        if self.kept is not None and self.drafts is not None:
            self.kept.store(self.drafts.name, self._histories[self.drafts.name])

    @property
    def needs_features(self) -> bool:
        """Whether calls of the model have to give more than logits."""
        return self.drafts is not None and self.drafts.needs_features

    def use(self, kind: DraftChoice, most: int | None = None) -> None:
        """Draft from the next reply on; on the model's thread.

        `auto` drafts where that can pay: with the model's own draft weights, where a block of rows
        costs less than its rows one by one, which on a CPU it does not. A kind that is named is
        used wherever it is; one that memory was short for is not. UsageError for one that this
        model has not, and for a `most` outside 1 to 7.
        """
        own = self._own()
        drafts: DraftModel | None = None
        if kind == "auto":
            drafts = own if self.exact_rows > 1 else None
        elif kind == "lookup":
            drafts = Lookup()
        elif kind != "off" and self.weights_elsewhere:
            raise UsageError(ELSEWHERE)
        elif kind != "off" and not self.why_off(kind):
            if own is None or own.name != kind:
                raise UsageError(refusal(kind, None if own is None else own.name))
            drafts = own
        self.draft_with(drafts, most, demanded=kind != "auto")

    def draft_with(self, drafts: DraftModel | None, most: int | None, demanded: bool) -> None:
        """Draft with `drafts`, at most `most` a pass; unless `demanded`, where that pays.

        UsageError for a demand where weights are elsewhere; drafts are off there.

        A pass is one call where the model reads several rows exactly, and has no more of them.
        """
        if drafts is not None and self.weights_elsewhere:
            if demanded:
                raise UsageError(ELSEWHERE)
            drafts = None
        if drafts is None:
            self.drafts = self.controller = None
            return
        rows = self.exact_rows if self.exact_rows > 1 else MOST_DRAFTS + 1
        asked = min(most_drafts(drafts.name, most), rows - 1), demanded
        if self.drafts is not None and self.drafts.name == drafts.name and self._asked == asked:
            return
        self.drafts, self._asked = drafts, asked
        if self.kept is not None and drafts.name not in self._histories:
            self._histories[drafts.name] = self.kept.load(drafts.name)
        self.controller = DraftController(
            predicted_costs(drafts),
            most=asked[0],
            demanded=demanded,
            measured=self._histories.setdefault(drafts.name, DraftHistory()),
        )
