"""One timeline of a model: its token ids, the state after them, the places it can return to.

``sync`` makes the timeline equal to a prompt and reads as little as possible, ``stream`` makes it
grow, ``rewind`` shortens it without reading anything.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from dsv4_mlx import session_file
from dsv4_mlx.errors import CacheError, PromptError, UsageError
from dsv4_mlx.generation import (
    FinishReason,
    RepetitionPenalty,
    Sampler,
    Steer,
    Token,
    make_penalty,
    make_sampler,
    steered,
)
from dsv4_mlx.places import Places
from dsv4_mlx.session_file import SavedSession
from dsv4_mlx.session_values import SessionSnapshot, Sync

if TYPE_CHECKING:
    from dsv4_mlx.cache import CacheBytes
    from dsv4_mlx.engine import Engine, Flag

Cache = list[Any]
OnProgress = Callable[[int, int], None]
"""Called with (tokens read, tokens to read); tokens the timeline already held are not counted."""
SAVED_PLACE_BYTES = 1 << 28
_CLEAR_EVERY = 256


class Session:
    """One timeline: token ids, the model's state after them, and the logits that follow.

    Between calls the state has consumed a prefix of ``tokens``, normally all of them. It lags
    only after a failure, which takes it back to the last moment that was complete: a place, or
    the beginning of the chunk that was being read. Whoever needs the rest reads it again first.
    """

    def __init__(self, engine: "Engine"):
        self.engine = engine
        self._tokens: list[int] = []
        self._cache: Cache = engine.model.make_cache()
        self._consumed = 0
        self._logits: mx.array | None = None  # float32 [V], after all of the tokens
        self._places = Places(engine.snapshot_bytes)
        self._edition = 0  # changes whenever a running stream loses its place

    @property
    def tokens(self) -> list[int]:
        """The timeline so far."""
        return list(self._tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def places(self) -> Places:
        """The places this session can return to cheaply."""
        return self._places

    def sync(
        self,
        tokens: Sequence[int],
        on_progress: OnProgress | None = None,
        cancel: "Flag | None" = None,
        places: Collection[int] = (),
    ) -> Sync:
        """Make the timeline equal to ``tokens``, reading as little as possible.

        Keeps the longest common prefix, from the nearest snapshot on. A set ``cancel`` flag ends
        it after the chunk being read; the timeline then holds what was read. ``places`` are
        offsets worth returning to: where the reading passes one, it takes a snapshot.
        """
        target = self.engine.check(tokens)
        self._edition += 1
        if target == self._tokens and self._logits is not None:
            return Sync(reused=len(target), read=0, cancelled=False)
        self._rewind(_common_prefix(target, self._tokens[: self._consumed]), len(target) - 1)
        reused = self._consumed
        self._tokens = target[:reused]
        self._read(target, on_progress, cancel, places)
        return Sync(reused, self._consumed - reused, cancelled=self._consumed < len(target))

    def stream(
        self,
        max_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | None = None,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        sampler: Sampler | None = None,
        stop_ids: Collection[int] | None = None,
        cancel: "Flag | None" = None,
        steer: Steer | None = None,
    ) -> Iterator[Token]:
        """Generate up to ``max_tokens`` tokens, by default until EOS or the end of the context.

        A stop token is yielded too, as the last one. Closing the iterator or setting ``cancel``
        leaves the timeline exactly at the tokens yielded. The penalty counts the tokens of the
        timeline, the prompt's too. ``sampler`` takes the place of the other sampling options, and a
        token that ``steer`` gives takes the place of a draw. PromptError when there is no prompt
        yet.
        """
        sampler = sampler or make_sampler(temperature, top_p, min_p, seed, top_k)
        sampler = steered(sampler, steer)
        stops = set(self.engine.config.stop_token_ids if stop_ids is None else stop_ids)
        if max_tokens is not None and max_tokens < 0:
            raise UsageError(f"max_tokens must be 0 or more, got {max_tokens}.")
        if not self._tokens:
            raise PromptError("There is no prompt to continue; sync one first.")
        self._edition += 1
        penalty = make_penalty(repetition_penalty, self._tokens)
        return self._generate(max_tokens, sampler, penalty, stops, cancel, self._edition)

    def rewind(self, offset: int) -> int:
        """Shorten the timeline to ``offset`` tokens without reading anything; where it stands then.

        That is the nearest place before ``offset`` when there is none there.
        """
        self._edition += 1
        if offset < self._consumed:
            self._rewind(offset, offset)
        self._tokens = self._tokens[: self._consumed]
        return self._consumed

    def hold(self) -> None:
        """Let ``rewind`` return here, until the next such moment; as cheap as a snapshot."""
        if self._consumed:
            self._places.hold(self.engine.caches.snapshot(self._cache))

    def snapshot(self) -> SessionSnapshot:
        """This point of the timeline: the fixed-size state, and counts for all that grows."""
        logits = self._settled()
        state = self.engine.caches.snapshot(self._cache)
        return SessionSnapshot(tuple(self._tokens), state, logits)

    def restore(self, snapshot: SessionSnapshot) -> None:
        """Return to a point of this session, or of one that shares an origin with it by fork.

        The places behind what both timelines have in common are forgotten.
        """
        self._edition += 1
        common = _common_prefix(snapshot.tokens, self._tokens[: self._consumed])
        self.engine.caches.restore(self._cache, snapshot.state)
        self._places.drop_after(common)
        self._tokens, self._consumed = list(snapshot.tokens), len(snapshot.tokens)
        self._logits = snapshot.logits

    def fork(self) -> "Session":
        """A second timeline that begins with this one; what is common is stored once."""
        other = Session.__new__(Session)
        other.engine = self.engine
        other._tokens, other._consumed, other._logits = self.tokens, self._consumed, self._logits
        other._cache = self.engine.caches.fork(self._cache)
        other._places = self._places.copy()
        other._edition = 0
        return other

    def sizes(self) -> "CacheBytes":
        """What the state holds, by its parts."""
        return self.engine.caches.sizes(self._cache)

    def save(
        self,
        path: str | Path,
        metadata: Mapping[str, str] | None = None,
        *,
        place_bytes: int = SAVED_PLACE_BYTES,
    ) -> None:
        """Write the timeline to a file, with ``metadata`` for whoever loads it.

        Its latest places are written with it, as many as ``place_bytes`` hold.
        """
        if not self._consumed:
            raise CacheError("There is nothing to save; the session holds no tokens.")
        tokens = self._tokens[: self._consumed]
        places = self._places.latest(place_bytes)
        saved = SavedSession(self._cache, tokens, self._logits, dict(metadata or {}), places)
        session_file.write(path, saved, self.engine)

    def save_place(self, path: str | Path, offset: int) -> None:
        """Write the timeline's first ``offset`` tokens to a file; there has to be a place."""
        snapshot = self._places.nearest(offset)
        if snapshot is None or snapshot.offset != offset:
            raise CacheError(f"There is no place at {offset} tokens to save; read them again.")
        beginning = self.engine.caches.fork(self._cache)
        self.engine.caches.restore(beginning, snapshot)
        saved = SavedSession(beginning, self._tokens[:offset])
        session_file.write(path, saved, self.engine)

    def load(self, path: str | Path) -> dict[str, str]:
        """Replace the timeline by a saved one, its places included, and return its metadata.

        CacheError, and an unchanged session, if the file is damaged or of another model.
        """
        saved = session_file.read(path, self.engine)
        self._edition += 1
        self._cache, self._tokens, self._logits = saved.state, saved.tokens, saved.logits
        self._consumed = len(self._tokens)
        self._places = Places(self.engine.snapshot_bytes)
        for place in saved.places:
            self._places.add(place)
        return saved.metadata

    # The state and how it moves

    def _rewind(self, common: int, latest: int) -> None:
        """Take the state back to where it agrees with ``common`` tokens, at most ``latest``.

        ``latest`` is the last but one token: reading the last one gives the logits.
        """
        if self._consumed <= min(common, latest):
            self._remember()
            return
        snapshot = self._places.nearest(min(common, latest))
        if snapshot is None:
            self._forget()
            return
        self.engine.caches.restore(self._cache, snapshot)
        self._consumed, self._logits = snapshot.offset, None
        self._places.drop_after(snapshot.offset)

    def _remember(self) -> None:
        """Take a snapshot here, unless there is one or nothing to remember."""
        if self._consumed and not self._places.has(self._consumed):
            try:
                mx.eval(self._arrays())  # generating leaves it under way, and it might fail yet
            except BaseException:
                self._recover()
                raise
            self._places.add(self.engine.caches.snapshot(self._cache))

    def _recover(self) -> None:
        """After a failure: return to the latest place whose state exists; without one, forget.

        What was held while generating does not count: it may have been under way itself.
        """
        while (snapshot := self._places.nearest(self._consumed)) is not None:
            try:
                self.engine.caches.restore(self._cache, snapshot)
                mx.eval(self._arrays())
            except Exception:
                self._places.drop_after(snapshot.offset - 1)
                continue
            self._consumed, self._logits = snapshot.offset, None
            return
        self._forget()

    def _forget(self) -> None:
        """Drop the state but not the tokens: the next call reads them again."""
        self._cache = self.engine.model.make_cache()
        self._places = Places(self.engine.snapshot_bytes)
        self._consumed, self._logits = 0, None

    def _read(
        self,
        target: list[int],
        on_progress: OnProgress | None,
        cancel: "Flag | None",
        places: Collection[int] = (),
    ) -> None:
        """Consume the rest of ``target``; the last token alone, since it needs logits."""
        start, last = self._consumed, len(target) - 1
        stops = sorted({place for place in places if start < place < last} | {last}, reverse=True)
        report = on_progress or (lambda done, total: None)
        report(0, len(target) - start)
        while self._consumed < len(target):
            if cancel is not None and cancel.is_set():
                return
            if self._consumed == stops[-1]:
                stops.pop()
                self._remember()
            self.hold()
            # Behind the last stop only the last token is left.
            end = min(self._consumed + self.engine.prefill_chunk, stops[-1] if stops else last + 1)
            self._consume(target[self._consumed : end], logits=end == len(target))
            self._tokens += target[len(self._tokens) : end]
            report(end - start, len(target) - start)
        self._places.release()
        mx.clear_cache()

    def _consume(self, tokens: list[int], logits: bool) -> None:
        """Run the model over ``tokens``, evaluated when this returns."""
        try:
            output = self.engine.model(mx.array(tokens)[None], cache=self._cache)
            # Unless asked for, logits stay unevaluated and the head costs nothing.
            self._logits = output[0, -1] if logits else None
            mx.eval(self._arrays(), self._logits if logits else [])
        except BaseException:
            self._recover()
            raise
        self._consumed += len(tokens)

    def _settled(self) -> mx.array:
        """The logits that follow the timeline, after reading what a failure left unread."""
        if not self._tokens:
            raise PromptError("There is no prompt yet; sync one first.")
        if self._logits is None:
            self._catch_up(None)
        assert self._logits is not None
        return self._logits

    def _catch_up(self, cancel: "Flag | None") -> None:
        timeline = self.tokens
        self._rewind(self._consumed, len(timeline) - 1)
        self._read(timeline, None, cancel)

    def _generate(
        self,
        max_tokens: int | None,
        sampler: Sampler,
        penalty: RepetitionPenalty | None,
        stops: set[int],
        cancel: "Flag | None",
        edition: int,
    ) -> Iterator[Token]:
        room = self.engine.max_context - len(self._tokens)
        limit = room if max_tokens is None else min(max_tokens, room)
        if self._logits is None and limit:
            self._catch_up(cancel)
        for number in range(1, limit + 1):
            if cancel is not None and cancel.is_set():
                return
            if edition != self._edition:
                raise UsageError("This stream has ended: its session has moved on since.")
            token, logprob = self._step(sampler, penalty)
            finish = _finish(token in stops, number == limit)
            yield Token(token, logprob, finish)
            if finish is not None:
                return
            if number % _CLEAR_EVERY == 0:
                mx.clear_cache()

    def _step(self, sampler: Sampler, penalty: RepetitionPenalty | None) -> tuple[int, float]:
        """Draw a token and start on the one behind it; the timeline ends at the drawn one."""
        assert self._logits is not None
        try:
            logprobs = self._logits - mx.logsumexp(self._logits)
            drawn = sampler(logprobs) if penalty is None else penalty.draw(self._logits, sampler)
            chosen = logprobs[drawn]
            # Evaluated for themselves: one evaluation is waited for as a whole, and the token must
            # not wait for the step behind it, which computes while the caller shows this token.
            mx.async_eval(drawn, chosen)  # type: ignore[no-untyped-call]
            output = self.engine.model(drawn.reshape(1, 1), cache=self._cache)
            following = output[0, -1]
            # State is evaluated with the logits: parts that none depend on would otherwise grow an
            # endless lazy chain.
            mx.async_eval(following, self._arrays())  # type: ignore[no-untyped-call]
            token: int = drawn.item()  # type: ignore[assignment]
            logprob: float = chosen.item()  # type: ignore[assignment]
        except BaseException:
            self._places.release()  # what was held while generating may be under way itself
            self._recover()
            raise
        self._tokens.append(token)
        self._consumed += 1
        self._logits = following
        return token, logprob

    def _arrays(self) -> list[mx.array]:
        """Every array of the state that has to be evaluated."""
        return self.engine.caches.evaluated(self._cache)


def _finish(stopped: bool, full: bool) -> FinishReason | None:
    if stopped:
        return "stop"
    return "length" if full else None


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    shorter = min(len(one), len(other))
    for index in range(shorter):
        if one[index] != other[index]:
            return index
    return shorter
