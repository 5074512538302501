"""Where a timeline stands, and how it gets back to a moment that was complete."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from dsv4_mlx.engine.block import DraftBlock, StartedStep
from dsv4_mlx.engine.drafters import Features, TimelineDrafts
from dsv4_mlx.engine.draws import Draws
from dsv4_mlx.engine.moments import SessionSnapshot
from dsv4_mlx.engine.places import Places
from dsv4_mlx.engine.protocols import Cache
from dsv4_mlx.engine.running import Running


class TimelineState:
    """Token ids, the model's state after them, the logits that follow, and places to return to.

    Between calls the state has consumed a prefix of `tokens`, normally all of them. It lags only
    after a failure, which takes it back to the last moment that was complete: a place, or the
    beginning of the chunk that was being read. Whoever needs the rest reads it again first.
    """

    def __init__(
        self, running: Running, cache: Cache | None = None, tokens: Sequence[int] = ()
    ) -> None:
        """An empty timeline, or the one whose `tokens` led to `cache`."""
        self.running = running
        self.tokens = list(tokens)
        self.cache: Cache = running.model.make_cache() if cache is None else cache
        self.consumed = len(self.tokens)
        self.logits: mx.array | None = None  # float32 [V], after all of the tokens
        self.places = Places(running.snapshot_bytes)
        self.asked: SessionSnapshot | None = None
        """The end of the latest prompt, to which the same one returns. Its last token, read alone,
        would give other bits than it did with others."""
        self.block: DraftBlock | None = None
        """What was read ahead; see `settle`."""
        self.draws: Draws | None = None
        """Those of the stream under way, while a token is to follow its last one."""
        self.started: StartedStep | None = None
        """The next token, where it was started together with other timelines'; see `rounds`."""
        self.is_apart = False
        """Whether the reply under way takes no part in rounds, since one that it was in failed."""
        self._drafts = TimelineDrafts(running.config.vocab_size)
        self.begin_reply()

    def begin_reply(self) -> None:
        """Draft as the engine does by now, and notice weights that were replaced."""
        self.is_apart = False
        self.running.begin_reply()
        if self._drafts.use(self.running.drafting.drafts):
            self._follow()

    @property
    def drafts_know(self) -> int | None:
        """Tokens that drafts are made from; 0 while they begin cold, None without a drafter."""
        return self._drafts.known

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """Inside, the cache has what the drafter knows, for whoever remembers or writes it.

        Outside it does not: a ring that two hold would be copied when the next row is written.
        """
        caches = self.running.caches
        before = caches.drafts_of(self.cache)
        caches.keep_drafts(self.cache, self._drafts.remember(self.consumed, before))
        try:
            yield
        finally:
            if self._drafts.known is not None:
                caches.keep_drafts(self.cache, None)

    def arrays(self) -> list[mx.array]:
        """Every array of the state that has to be evaluated."""
        return [*self.running.caches.evaluated(self.cache), *self._drafts.state()]

    def _read_on(self, tokens: list[int], logits: mx.array, features: Features) -> None:
        """The model has consumed `tokens` too."""
        self.consumed += len(tokens)
        self.logits = logits
        self._drafts.absorb(tokens, features)

    def _follow(self) -> None:
        """Let the drafter go on where the state is now, cold unless it knows this place."""
        caches = self.running.caches
        self._drafts.follow(self.tokens[: self.consumed], caches.drafts_of(self.cache))
        if self._drafts.known is not None:
            caches.keep_drafts(self.cache, None)

    def hold(self) -> None:
        """Hold this moment as a place, until the next one that is held."""
        if self.consumed:
            self.places.hold(self._moment())

    def _moment(self) -> Any:
        """A snapshot of the state and of what the drafter knows."""
        with self.remembered():
            return self.running.caches.snapshot(self.cache)

    @contextmanager
    def _recovering(self, generating: bool = True) -> Iterator[None]:
        """What fails inside takes the timeline back to its last complete moment."""
        try:
            yield
        except BaseException as error:
            if generating:
                self.places.release()  # what was held may have been under way itself
            self._recover()
            self.running.explain(error)
            raise

    def _go_back(self, common: int, latest: int) -> None:
        """Take the state back to where it agrees with `common` tokens, at most `latest`.

        `latest` is the last but one token: reading the last one gives the logits.
        """
        if self.consumed <= min(common, latest):
            self._remember()
            return
        snapshot = self.places.nearest(min(common, latest))
        if snapshot is None:
            self._forget()
            return
        self.running.caches.restore(self.cache, snapshot)
        self.consumed, self.logits = snapshot.offset, None
        self.places.drop_after(snapshot.offset)
        self._follow()

    def _remember(self) -> None:
        """Take a snapshot here, unless there is one or nothing to remember."""
        if self.consumed and not self.places.has(self.consumed):
            with self._recovering(generating=False):
                mx.eval(self.arrays())  # generating leaves it under way, and it might fail yet
            self.places.add(self._moment())

    def _recover(self) -> None:
        """After a failure: return to the latest place whose state exists; without one, forget."""
        self.block = self.started = None
        while (snapshot := self.places.nearest(self.consumed)) is not None:
            try:
                self.running.caches.restore(self.cache, snapshot)
                mx.eval(self.arrays())
            except Exception:
                self.places.drop_after(snapshot.offset - 1)
                continue
            self.consumed, self.logits = snapshot.offset, None
            self._follow()
            return
        self._forget()

    def _forget(self) -> None:
        """Drop the state but not the tokens: the next call reads them again."""
        self.cache = self.running.model.make_cache()
        self.places = Places(self.running.snapshot_bytes)
        self.consumed, self.logits = 0, None
        self._follow()
