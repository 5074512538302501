"""One timeline and how it moves: read on, go back, draw, and read drafts that may be taken back."""

from collections.abc import Collection, Iterator

import mlx.core as mx

from dsv4_mlx.engine.block import DraftBlock, StartedStep
from dsv4_mlx.engine.drafters import Confidence, DraftIds, Features
from dsv4_mlx.engine.draws import Drawn, Draws, PendingDraw
from dsv4_mlx.engine.moments import OnLayer, OnProgress, SessionSnapshot, Sync, common_prefix
from dsv4_mlx.engine.protocols import Flag
from dsv4_mlx.engine.timeline_reading import ReadingTimeline
from dsv4_mlx.errors import CacheError, PromptError


class Timeline(ReadingTimeline):
    """A timeline that its session reads, writes and takes back."""

    def fork(self) -> "Timeline":
        """A second timeline that begins with this one; what is common is stored once."""
        with self.remembered():
            cache = self.running.caches.fork(self.cache)
        other = Timeline(self.running, cache, self.tokens[: self.consumed])
        other.tokens, other.logits = list(self.tokens), self.logits
        other.places, other.asked = self.places.copy(), self.asked
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
        on_layer: OnLayer | None = None,
    ) -> Sync:
        """Become `target`, which the model can read; see `Session.sync`."""
        self.begin_reply()  # so that whoever drafts it reads the prompt too
        if self.asked is not None and list(self.asked.tokens) == target:
            self.restore(self.asked)
        if target == self.tokens and self.logits is not None:
            return Sync(reused=len(target), read=0, cancelled=False)
        self._go_back(common_prefix(target, self.tokens[: self.consumed]), len(target) - 1)
        reused = self.consumed
        self.tokens = target[:reused]
        self._read(target, on_progress, cancel, places, on_layer)
        is_whole = self.consumed == len(target)
        if is_whole and (end := self.moment()).nbytes <= self.running.snapshot_bytes:
            self.asked = end
        return Sync(reused, self.consumed - reused, cancelled=not is_whole)

    def reading(
        self, target: list[int], places: Collection[int], on_layer: OnLayer | None = None
    ) -> Iterator[int]:
        """Become `target` chunk by chunk; gives the tokens found, then those held after each chunk.

        Chunks end at multiples of their size wherever the reading begins; what passes the layers of
        a model together is one.
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
                if self.running.reads_by_layers:
                    self._pass(target, wanted, self._told(on_layer, None))
                else:
                    end = min((start // chunk + 1) * chunk, len(target))
                    asked = self._ask_ahead(target, asked, end + chunk)
                    inside = [place for place in wanted if start < place < end]
                    self._read_ahead(target, end, wanted)
                    self._consume(target[start:end], inside, logits=end == len(target))
                self.tokens = target[: self.consumed]
                self.running.memory.keep_up()
                yield self.consumed
        except GeneratorExit:  # left before its end
            self.running.end_reading(self.cache)
            raise
        finally:
            self.places.release()

    def rewind(self, offset: int) -> int:
        """Shorten the timeline to `offset` tokens, or to the nearest place before; its length."""
        if offset < self.consumed:
            self._go_back(offset, offset)
        self.tokens = self.tokens[: self.consumed]
        return self.consumed

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

    def step(self, draws: Draws, guesses: int = 0) -> tuple[Drawn, DraftIds]:
        """Draw a token and start on the one after it, unless that is started: the token, and
        `guesses`."""
        with self._recovering():
            started, self.started = self.started, None
            if started is None:
                drawing = self._drawing(draws)
                following, features = self._started(drawing.token.reshape(1, 1))
            else:
                drawing, following, features = started
            drawn = drawing.read()
            guessed = self._drafts.guess(drawn.id, guesses, draws)
            self.tokens.append(drawn.id)
            self._read_on([drawn.id], following, features)
        return drawn, guessed

    def _drawing(self, draws: Draws) -> PendingDraw:
        """The next token, under way."""
        assert self.logits is not None
        drawing = draws.draw(self.logits)
        # Evaluated for themselves: one evaluation is waited for as a whole, and the token must not
        # wait for the step after it, which computes while the caller shows this token.
        mx.async_eval(drawing.arrays())  # type: ignore[no-untyped-call]
        return drawing

    @property
    def may_join(self) -> bool:
        """Whether a round may start the next token. The first one of a reply has a call of its own,
        and so have those that a block of drafts may hold."""
        is_free = self.block is None and self.started is None and self.logits is not None
        return self.draws is not None and is_free and not self.is_apart

    def decodes_many(self) -> bool:
        """Whether the next token has company; see `Running.decodes_many`."""
        return self.running.decodes_many or self.started is not None

    def draw_ahead(self) -> PendingDraw:
        """The next token of the stream under way, whose step is to be started."""
        assert self.draws is not None
        with self._recovering():
            return self._drawing(self.draws)

    def start(self, drawing: PendingDraw) -> None:
        """Start on what follows a token that was drawn ahead, alone."""
        with self._recovering():
            self.started = StartedStep(drawing, *self._started(drawing.token.reshape(1, 1)))

    def take_back(self) -> PendingDraw:
        """The token that was drawn for a call with others that failed; the state is back at its
        last complete moment, and none of the tokens are lost."""
        assert self.started is not None
        drawing = self.started.drawing
        self.places.release()
        self._recover()
        return drawing

    def start_apart(self, drawing: PendingDraw) -> None:
        """Read again what `take_back` left unread, and start on the token that it gave, alone; so
        goes the rest of the reply."""
        self.is_apart = True
        self.catch_up(None)
        self.start(drawing)

    def draw(self, draws: Draws, row: int | None = None) -> Drawn:
        """The next token, unread; of row `row` of the open block."""
        logits = self.logits if self.block is None or row is None else self.block.logits[row]
        assert logits is not None
        with self._recovering():
            drawn = draws.next(logits, row)
            if row == 0 and self.block is not None:  # it is the first that looks at the drafts
                self._drafts.checked(self.block.rows)
            return drawn

    def show(self, draws: Draws) -> Drawn:
        """Draw a token that nobody reads until the next is wanted."""
        assert self.logits is not None
        with self._recovering():
            drawn = draws.next(self.logits)
        self.tokens.append(drawn.id)
        self.logits = None
        return drawn

    def ask_for_last(self) -> None:
        """Begin to read what the last token alone decides, while the caller shows it."""
        self.running.ask_ahead(self.tokens, len(self.tokens) - 1, len(self.tokens))

    def read_shown(self) -> None:
        """Read the token that `show` gave last, unless it was read since."""
        if self.running.blocks and self.logits is None and self.consumed == len(self.tokens) - 1:
            with self._recovering():
                token = self.tokens[-1]
                following, features = self._started(mx.array([[token]]))
                self._read_on([token], following, features)

    def shown(self, draws: Draws, limit: int, stops: set[int]) -> Iterator[Drawn]:
        """`limit` tokens, each given before the step after it begins, which blocks. What a last
        one, or one of `stops`, decides is not asked for: a reply does not read it."""
        for number in range(1, limit + 1):
            self.read_shown()
            drawn = self.show(draws)
            if drawn.id not in stops and number < limit:
                self.ask_for_last()
            yield drawn

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
        """Close an open block: the state is what it were had the rows not kept never been read. A
        token that was started and not taken is lost, back to the last complete moment."""
        block, self.block = self.block, None
        if self.started is not None:
            self._recover()
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
