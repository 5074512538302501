"""One timeline and how it moves: read on, go back, draw, and read drafts that may be taken back."""

from collections.abc import Collection, Iterator

import mlx.core as mx

from dsv4_mlx.engine.block import DraftBlock
from dsv4_mlx.engine.drafters import Confidence, DraftIds, Features
from dsv4_mlx.engine.draws import Draws, read_draw
from dsv4_mlx.engine.moments import OnProgress, SessionSnapshot, Sync, common_prefix
from dsv4_mlx.engine.protocols import Flag
from dsv4_mlx.engine.timeline_state import TimelineState
from dsv4_mlx.errors import CacheError, PromptError


class Timeline(TimelineState):
    """A timeline that its session reads, writes and takes back."""

    def fork(self) -> "Timeline":
        """A second timeline that begins with this one; what is common is stored once."""
        with self.remembered():
            cache = self.running.caches.fork(self.cache)
        other = Timeline(self.running, cache, self.tokens[: self.consumed])
        other.tokens, other.logits = list(self.tokens), self.logits
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
        self.begin_reply()  # so that whoever drafts it reads the prompt too
        if target == self.tokens and self.logits is not None:
            return Sync(reused=len(target), read=0, cancelled=False)
        self._go_back(common_prefix(target, self.tokens[: self.consumed]), len(target) - 1)
        reused = self.consumed
        self.tokens = target[:reused]
        self._read(target, on_progress, cancel, places)
        return Sync(reused, self.consumed - reused, cancelled=self.consumed < len(target))

    def reading(self, target: list[int], places: Collection[int]) -> Iterator[int]:
        """Become `target` chunk by chunk; gives the tokens found, then those held after each chunk.

        Chunks end at multiples of their size wherever the reading begins.
        """
        self.begin_reply()
        if target != self.tokens or self.logits is None:
            self._go_back(common_prefix(target, self.tokens[: self.consumed]), len(target) - 1)
            self.tokens = target[: self.consumed]
        asked = self.consumed
        yield self.consumed
        wanted, chunk = {*places, len(target) - 1}, self.running.prefill_chunk
        try:
            while (start := self.consumed) < len(target):
                if start in wanted:
                    self._remember()
                self.hold()
                end = min((start // chunk + 1) * chunk, len(target))
                asked = self._ask_ahead(target, asked, end + chunk)
                inside = [place for place in wanted if start < place < end]
                self._consume(target[start:end], inside, logits=end == len(target))
                self.tokens += target[start:end]
                self.running.memory.keep_up()
                yield self.consumed
        finally:
            self.places.release()

    def rewind(self, offset: int) -> int:
        """Shorten the timeline to `offset` tokens, or to the nearest place before; its length."""
        if offset < self.consumed:
            self._go_back(offset, offset)
        self.tokens = self.tokens[: self.consumed]
        return self.consumed

    def hold(self) -> None:
        """Hold this moment as a place, until the next one that is held."""
        if self.consumed:
            self.places.hold(self._moment())

    def snapshot(self) -> SessionSnapshot:
        """This point; what a failure left unread is read first. PromptError without tokens."""
        if not self.tokens:
            raise PromptError("There is no prompt yet; sync one first.")
        if self.logits is None:
            self.catch_up(None)
        assert self.logits is not None
        state = self._moment()
        return SessionSnapshot(tuple(self.tokens), state, self.logits)

    def moment(self) -> SessionSnapshot:
        """The point up to which the state goes, without reading anything."""
        logits = [] if self.logits is None else [self.logits]
        with self._recovering(generating=False):
            mx.eval(self.arrays(), logits)  # or it would hold the graph that leads to it
        return SessionSnapshot(tuple(self.tokens[: self.consumed]), self._moment(), self.logits)

    def restore(self, snapshot: SessionSnapshot) -> None:
        """Return to `snapshot`; places after what both timelines have in common are forgotten."""
        common = common_prefix(snapshot.tokens, self.tokens[: self.consumed])
        self.running.caches.restore(self.cache, snapshot.state)
        self.places.drop_after(common)
        self.tokens, self.consumed = list(snapshot.tokens), len(snapshot.tokens)
        self.logits = snapshot.logits
        self._follow()

    def catch_up(self, cancel: Flag | None) -> None:
        """Read what a failure or a rewind left unread, so that the logits are there."""
        target = list(self.tokens)
        self._go_back(self.consumed, len(target) - 1)
        self._read(target, None, cancel, ())

    def step(self, draws: Draws, guesses: int = 0) -> tuple[int, float, DraftIds]:
        """Draw a token and start on the one after it: its id, log-probability, and `guesses`."""
        assert self.logits is not None
        with self._recovering():
            drawn, chosen = draws.draw(self.logits)
            # Evaluated for themselves: one evaluation is waited for as a whole, and the token must
            # not wait for the step after it, which computes while the caller shows this token.
            mx.async_eval(drawn, chosen)  # type: ignore[no-untyped-call]
            following, features = self._started(drawn.reshape(1, 1))
            token, logprob = read_draw(drawn, chosen)
            guessed = self._drafts.guess(token, guesses, draws)
            self.tokens.append(token)
            self._read_on([token], following, features)
        return token, logprob, guessed

    def draw(self, draws: Draws, row: int | None = None) -> tuple[int, float]:
        """The next token, unread, and its log-probability; of row `row` of the open block."""
        logits = self.logits if self.block is None or row is None else self.block.logits[row]
        assert logits is not None
        with self._recovering():
            drawn = draws.next(logits, row)
            if row == 0 and self.block is not None:  # it is the first that looks at the drafts
                self._drafts.checked(self.block.rows)
            return drawn

    def drafts(self, token: int, count: int, draws: Draws) -> DraftIds:
        """At most `count` guesses at what follows `token`, which is drawn but not read."""
        with self._recovering():
            return self._drafts.guess(token, count, draws)

    @property
    def confidence(self) -> Confidence:
        """What the drafter says of the drafts it made last."""
        return self._drafts.confidence

    def advance(self, token: int, draws: Draws, guesses: int) -> DraftIds:
        """Read a token that is drawn already; drafts as `step` gives them."""
        with self._recovering():
            following, features = self._started(mx.array([[token]]))
            guessed = self._drafts.guess(token, guesses, draws)
            self.tokens.append(token)
            self._read_on([token], following, features)
        return guessed

    def open_block(self, token: int, drafts: DraftIds, draws: Draws) -> DraftBlock:
        """Read a token that is drawn and the drafts after it; the timeline grows by the first."""
        with self._recovering():
            block = self.running.read_block(token, drafts, self.cache)
            # Together, so that whoever waits for one of them has waited for all.
            under_way = [*draws.prepare(block.logits), *block.arrays(), *self.arrays()]
            if isinstance(self.confidence, mx.array):
                under_way.append(self.confidence)
            mx.async_eval(under_way)  # type: ignore[no-untyped-call]
        self.block = block
        self.tokens.append(token)
        return block

    def keep(self, token: int) -> None:
        """The next row of the open block is a token of the timeline."""
        assert self.block is not None
        self.block.kept += 1
        self.tokens.append(token)

    def settle(self) -> None:
        """Close an open block: the state is what it were had the rows not kept never been read."""
        block, self.block = self.block, None
        if block is None:
            return
        with self._recovering():
            self.running.close_block(block, self.cache)
            self._read_on(block.kept_rows(), block.logits[block.kept - 1], block.kept_features())

    def _started(self, token: mx.array) -> tuple[mx.array, Features]:
        """Logits [V] and features after one more token [1, 1], under way."""
        following, features = self.running.step(token, self.cache)
        # State is evaluated with the logits: parts that none depend on would otherwise grow an
        # endless lazy chain.
        mx.async_eval(following, self.arrays())  # type: ignore[no-untyped-call]
        return following, features

    def _absorb(self, tokens: list[int], inside: list[int], features: Features) -> None:
        """Let the drafter follow a chunk; moments inside of it get what it knows there."""
        moments, done, end = {}, self.consumed, self.consumed + len(tokens)
        for place in [*sorted(inside), end]:
            part = slice(done - self.consumed, place - self.consumed)
            self._drafts.absorb(tokens[part], None if features is None else features[:, part])
            done = place
            if place < end and (state := self._drafts.remember(place, None)) is not None:
                moments[place] = state
        caches = self.running.caches
        caches.keep_drafts(self.cache, caches.drafts_of(self.cache), moments)

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
        with self._recovering(generating=False):
            caches.mark(self.cache, inside)
            output, features = self.running.read(mx.array(tokens)[None], self.cache)
            # Unless asked for, logits stay unevaluated and the head costs nothing.
            self.logits = output if logits else None
            self._absorb(tokens, inside, features)
            mx.eval(self.arrays(), self.logits if logits else [])
            for moment in caches.marked(self.cache):
                self.places.add(moment)
        self.consumed += len(tokens)
