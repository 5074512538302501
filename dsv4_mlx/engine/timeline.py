"""The state of one timeline and how it moves: read on, go back, recover from a failure."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import mlx.core as mx

from dsv4_mlx.engine.generation import RepetitionPenalty, Sampler
from dsv4_mlx.engine.places import CacheSnapshot, Places
from dsv4_mlx.engine.running import Cache, Flag, Running
from dsv4_mlx.errors import CacheError, PromptError

OnProgress = Callable[[int, int], None]
"""Called with (tokens read, tokens to read); tokens the timeline already held are not counted."""


@dataclass(frozen=True)
class Sync:
    """What `Session.sync` did: tokens it found in the timeline and tokens it read."""

    reused: int
    read: int
    cancelled: bool


@dataclass(frozen=True)
class SessionSnapshot:
    """One point of a timeline, good for `Session.restore` as long as it is held."""

    tokens: tuple[int, ...]
    state: CacheSnapshot
    logits: mx.array
    """Float32 [V], for the token that follows."""

    @property
    def offset(self) -> int:
        """Tokens up to this point."""
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return self.state.nbytes + self.logits.nbytes


class Timeline:
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

    def fork(self) -> "Timeline":
        """A second timeline that begins with this one; what is common is stored once."""
        other = Timeline(self.running, self.running.caches.fork(self.cache), self.tokens)
        other.consumed, other.logits = self.consumed, self.logits
        other.places = self.places.copy()
        return other

    def beginning(self, offset: int) -> "Timeline":
        """A timeline of the first `offset` tokens alone; CacheError unless a place lies there."""
        snapshot = self.places.nearest(offset)
        if snapshot is None or snapshot.offset != offset:
            raise CacheError(f"There is no place at {offset} tokens to save; read them again.")
        cache = self.running.caches.fork(self.cache)
        self.running.caches.restore(cache, snapshot)
        return Timeline(self.running, cache, self.tokens[:offset])

    def sync(
        self,
        target: list[int],
        on_progress: OnProgress | None,
        cancel: Flag | None,
        places: Collection[int],
    ) -> Sync:
        """Become `target`, which the model can read; see `Session.sync`."""
        if target == self.tokens and self.logits is not None:
            return Sync(reused=len(target), read=0, cancelled=False)
        self._go_back(_common_prefix(target, self.tokens[: self.consumed]), len(target) - 1)
        reused = self.consumed
        self.tokens = target[:reused]
        self._read(target, on_progress, cancel, places)
        return Sync(reused, self.consumed - reused, cancelled=self.consumed < len(target))

    def rewind(self, offset: int) -> int:
        """Shorten the timeline to `offset` tokens, or to the nearest place before; its length."""
        if offset < self.consumed:
            self._go_back(offset, offset)
        self.tokens = self.tokens[: self.consumed]
        return self.consumed

    def hold(self) -> None:
        """Hold this moment as a place, until the next one that is held."""
        if self.consumed:
            self.places.hold(self.running.caches.snapshot(self.cache))

    def snapshot(self) -> SessionSnapshot:
        """This point; what a failure left unread is read first. PromptError without tokens."""
        if not self.tokens:
            raise PromptError("There is no prompt yet; sync one first.")
        if self.logits is None:
            self.catch_up(None)
        assert self.logits is not None
        state = self.running.caches.snapshot(self.cache)
        return SessionSnapshot(tuple(self.tokens), state, self.logits)

    def restore(self, snapshot: SessionSnapshot) -> None:
        """Return to `snapshot`; places after what both timelines have in common are forgotten."""
        common = _common_prefix(snapshot.tokens, self.tokens[: self.consumed])
        self.running.caches.restore(self.cache, snapshot.state)
        self.places.drop_after(common)
        self.tokens, self.consumed = list(snapshot.tokens), len(snapshot.tokens)
        self.logits = snapshot.logits

    def catch_up(self, cancel: Flag | None) -> None:
        """Read what a failure or a rewind left unread, so that the logits are there."""
        target = list(self.tokens)
        self._go_back(self.consumed, len(target) - 1)
        self._read(target, None, cancel, ())

    def step(self, sampler: Sampler, penalty: RepetitionPenalty | None) -> tuple[int, float]:
        """Draw a token and start on the one after it; the timeline ends at the drawn one.

        Returns the token's id and its log-probability, the model's own.
        """
        assert self.logits is not None
        try:
            logprobs = self.logits - mx.logsumexp(self.logits)
            drawn = sampler(logprobs) if penalty is None else penalty.draw(self.logits, sampler)
            chosen = logprobs[drawn]
            # Evaluated for themselves: one evaluation is waited for as a whole, and the token must
            # not wait for the step after it, which computes while the caller shows this token.
            mx.async_eval(drawn, chosen)  # type: ignore[no-untyped-call]
            following = self.running.next_logits(drawn.reshape(1, 1), self.cache)
            # State is evaluated with the logits: parts that none depend on would otherwise grow an
            # endless lazy chain.
            mx.async_eval(following, self.arrays())  # type: ignore[no-untyped-call]
            token: int = drawn.item()  # type: ignore[assignment]
            logprob: float = chosen.item()  # type: ignore[assignment]
        except BaseException as error:
            self.places.release()  # what was held while generating may be under way itself
            self._recover()
            self.running.explain(error)
            raise
        self.tokens.append(token)
        self.consumed += 1
        self.logits = following
        return token, logprob

    def arrays(self) -> list[mx.array]:
        """Every array of the state that has to be evaluated."""
        return self.running.caches.evaluated(self.cache)

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

    def _remember(self) -> None:
        """Take a snapshot here, unless there is one or nothing to remember."""
        if self.consumed and not self.places.has(self.consumed):
            try:
                mx.eval(self.arrays())  # generating leaves it under way, and it might fail yet
            except BaseException as error:
                self._recover()
                self.running.explain(error)
                raise
            self.places.add(self.running.caches.snapshot(self.cache))

    def _recover(self) -> None:
        """After a failure: return to the latest place whose state exists; without one, forget.

        What was held while generating does not count: it may have been under way itself.
        """
        while (snapshot := self.places.nearest(self.consumed)) is not None:
            try:
                self.running.caches.restore(self.cache, snapshot)
                mx.eval(self.arrays())
            except Exception:
                self.places.drop_after(snapshot.offset - 1)
                continue
            self.consumed, self.logits = snapshot.offset, None
            return
        self._forget()

    def _forget(self) -> None:
        """Drop the state but not the tokens: the next call reads them again."""
        self.cache = self.running.model.make_cache()
        self.places = Places(self.running.snapshot_bytes)
        self.consumed, self.logits = 0, None

    def _read(
        self,
        target: list[int],
        on_progress: OnProgress | None,
        cancel: Flag | None,
        places: Collection[int],
    ) -> None:
        """Consume the rest of `target`; the last chunk gives the logits.

        `places` and the moment before the last token, to which an answer returns, lie inside
        chunks: the call remembers them on its way.
        """
        start, last = self.consumed, len(target) - 1
        wanted = {place for place in places if start < place < last} | {last}
        report, asked = on_progress or (lambda done, total: None), start
        report(0, len(target) - start)
        while self.consumed < len(target):
            if cancel is not None and cancel.is_set():
                return
            if self.consumed in wanted:
                self._remember()
            self.hold()
            end = min(self.consumed + self.running.prefill_chunk, len(target))
            asked = self._ask_ahead(target, asked, end + self.running.prefill_chunk)
            inside = [place for place in wanted if self.consumed < place < end]
            self._consume(target[self.consumed : end], inside, logits=end == len(target))
            self.tokens += target[len(self.tokens) : end]
            self.running.memory.keep_up()
            report(end - start, len(target) - start)
        self.places.release()

    def _ask_ahead(self, target: list[int], asked: int, until: int) -> int:
        """Ask, a chunk at a time, for what the tokens from `asked` on look up; where it ends.

        The chunk that is read next comes first, and the one after it is read meanwhile.
        """
        while asked < (until := min(until, len(target))):
            end = min(asked + self.running.prefill_chunk, until)
            self.running.ask_ahead(target, asked, end)
            asked = end
        return asked

    def _consume(self, tokens: list[int], inside: list[int], logits: bool) -> None:
        """Run the model over `tokens`, evaluated when this returns; places at offsets `inside`."""
        caches = self.running.caches
        try:
            caches.mark(self.cache, inside)
            output = self.running.model.last_logits(mx.array(tokens)[None], cache=self.cache)
            # Unless asked for, logits stay unevaluated and the head costs nothing.
            self.logits = output[0] if logits else None
            mx.eval(self.arrays(), self.logits if logits else [])
            for moment in caches.marked(self.cache):
                self.places.add(moment)
        except BaseException as error:
            self._recover()
            self.running.explain(error)
            raise
        self.consumed += len(tokens)


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    shorter = min(len(one), len(other))
    for index in range(shorter):
        if one[index] != other[index]:
            return index
    return shorter
