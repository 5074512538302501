"""How a timeline reads a prompt: a chunk at a time through the model, or a layer at a time."""

from collections.abc import Callable, Collection

import mlx.core as mx

from dsv4_mlx.engine.drafters import Features
from dsv4_mlx.engine.moments import OnLayer, OnProgress
from dsv4_mlx.engine.protocols import Flag
from dsv4_mlx.engine.timeline_state import TimelineState


class ReadingTimeline(TimelineState):
    """A timeline that grows by the tokens of a prompt."""

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
        on_layer: OnLayer | None = None,
    ) -> None:
        """Consume the rest of `target`; the last chunk gives the logits.

        `places` and the moment before the last token, to which an answer returns, lie inside
        chunks: the call remembers them on its way.
        """
        start, last = self.consumed, len(target) - 1
        wanted = {place for place in places if start < place < last} | {last}
        report, asked = on_progress or (lambda done, total: None), start
        report(0, len(target) - start)
        if self.running.reads_by_layers:
            self._read_by_layers(target, wanted, report, cancel, on_layer)
            return
        while self.consumed < len(target):
            if cancel is not None and cancel.is_set():
                self.running.end_reading(self.cache)
                return
            if self.consumed in wanted:
                self._remember()
            self.hold()
            end = min(self.consumed + self.running.prefill_chunk, len(target))
            asked = self._ask_ahead(target, asked, end + self.running.prefill_chunk)
            inside = [place for place in wanted if self.consumed < place < end]
            self._read_ahead(target, end, wanted)
            self._consume(target[self.consumed : end], inside, logits=end == len(target))
            self.tokens += target[len(self.tokens) : end]
            self.running.memory.keep_up()
            report(end - start, len(target) - start)
        self.places.release()

    def _read_by_layers(
        self,
        target: list[int],
        wanted: Collection[int],
        report: OnProgress,
        cancel: Flag | None,
        on_layer: OnLayer | None,
    ) -> None:
        """The same where many tokens pass a layer before the next; a stop before they have passed
        all of them leaves none of them read."""
        start, goes_on = self.consumed, self._told(on_layer, cancel)
        while self.consumed < len(target):
            if self.consumed in wanted:
                self._remember()
            self.hold()
            if not self._pass(target, wanted, goes_on):
                break
            self.tokens += target[len(self.tokens) : self.consumed]
            self.running.memory.keep_up()
            report(self.consumed - start, len(target) - start)
        self.places.release()

    def _told(self, on_layer: OnLayer | None, cancel: Flag | None) -> Callable[[int], bool]:
        """What is called before each layer: tells its number, and whether nobody stopped it."""
        layers = self.running.config.num_hidden_layers

        def goes_on(layer: int) -> bool:
            if on_layer is not None:
                on_layer(layer, layers)
            return cancel is None or not cancel.is_set() or layer == layers

        return goes_on

    def _pass(
        self, target: list[int], wanted: Collection[int], goes_on: Callable[[int], bool]
    ) -> bool:
        """Read as many tokens of `target` as pass the layers together; whether they passed all of
        them, and were not stopped, which takes the timeline back."""
        caches, start = self.running.caches, self.consumed
        end = min(start + self.running.pass_tokens, len(target))
        self._ask_ahead(target, start, end)
        inside = [place for place in wanted if start < place < end]
        tokens = target[start:end]
        with self._recovering(generating=False):
            caches.mark(self.cache, ())
            read = self.running.read_by_layers(mx.array(tokens)[None], self.cache, inside, goes_on)
            if read is None:
                self._recover()
                return False
            self._absorb(tokens, [], None)
            for moment in caches.marked(self.cache):
                self.places.add(moment)
        self.consumed, self.logits = end, read if end == len(target) else None
        return True

    def _ask_ahead(self, target: list[int], asked: int, until: int) -> int:
        """Ask, a chunk at a time, for what the tokens from `asked` on look up; where it ends.

        The chunk that is read next comes first, and the one after it is read meanwhile.
        """
        while asked < (until := min(until, len(target))):
            end = min(asked + self.running.prefill_chunk, until)
            self.running.ask_ahead(target, asked, end)
            asked = end
        return asked

    def _read_ahead(self, target: list[int], start: int, wanted: Collection[int]) -> None:
        """Tell a model that works ahead of the chunk from `start` on, which is not read yet."""
        end = min(start + self.running.prefill_chunk, len(target))
        inside = [place for place in wanted if start < place < end]
        self.running.read_ahead(self.cache, target[start:end], inside)

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
